// Seeded damage to files: of their bytes, and of the values in their JSON.
import { randomNumbers } from '../cases/random.ts'

export interface Mutator {
  readonly below: (n: number) => number
  readonly pick: <T>(list: readonly T[]) => T
  /** A copy with bits flipped, bytes set, cut out, put in, repeated or cleared, or the end missing; never equal to `bytes`. */
  readonly bytes: (bytes: Uint8Array) => Buffer
  /** A copy of a JSON value with one value of it replaced, removed, doubled or renamed. */
  readonly json: (value: unknown) => unknown
}

const strange: readonly unknown[] = [
  null, true, false, 0, -0, 1, -1, 2, 3, 7, 0.5, -0.5, 1e-30, 1e30, 1e308, -1e308, 65536, 2 ** 31, 2 ** 32, 2 ** 53, -(2 ** 53), 1e20, '', 'x', '0', 'NaN', 'null', '\u0000', '../x', 'ü', '𝕏', 'x'.repeat(5000),
  '__proto__', 'constructor', [], [[]], [null], [-1], [0, 0], [1e9, 1e9, 1e9], {}, { x: 1 }, { type: 'x' }, { __proto__x: null },
]

export function mutator(seed: string): Mutator {
  const random = randomNumbers(seed)
  const below = (n: number): number => Math.floor(random() * n)
  const pick = <T>(list: readonly T[]): T => list[below(list.length)]!

  function damaged(bytes: Uint8Array): Buffer {
    const copy = Buffer.from(bytes)
    // Headers are short and lie in front: half of the damage goes there.
    const at = below(random() < 0.5 ? Math.min(copy.length, 600) : copy.length)
    const end = Math.min(copy.length, at + 1 + below(random() < 0.5 ? 8 : 300))
    switch (below(8)) {
      case 0: copy[at]! ^= 1 << below(8); return copy
      case 1: copy[at] = pick([0, 1, 0x7f, 0x80, 0xff, 0x22, 0x7b, 0x7d, 0x2c, 0x5d, 0x0a, 0x30, 0x39, below(256)]); return copy
      case 2: for (let i = at; i < end; i++) copy[i] = below(256); return copy
      case 3: return Buffer.concat([copy.subarray(0, at), copy.subarray(end)])
      case 4: return Buffer.concat([copy.subarray(0, at), Buffer.from(Array.from({ length: end - at }, () => below(256))), copy.subarray(at)])
      case 5: return Buffer.concat([copy.subarray(0, end), copy.subarray(at, end), copy.subarray(end)])
      case 6: return copy.fill(pick([0, 0xff, 0x20]), at, end)
      default: return copy.subarray(0, at)
    }
  }

  /** Every place of the value that holds another, with its container. */
  function places(value: unknown, found: [Record<string, unknown> | unknown[], string][] = []): [Record<string, unknown> | unknown[], string][] {
    if (value === null || typeof value !== 'object') return found
    const keys = Object.keys(value)
    // Long lists are like one another: a few of their entries stand for all.
    for (const key of keys.length > 40 ? [...keys.slice(0, 8), ...Array.from({ length: 8 }, () => pick(keys))] : keys) {
      found.push([value as Record<string, unknown>, key])
      places((value as Record<string, unknown>)[key], found)
    }
    return found
  }

  function changed(value: unknown): unknown {
    const copy = structuredClone(value)
    const all = places(copy)
    if (all.length === 0) return pick(strange)
    const [container, key] = pick(all)
    const object = container as Record<string, unknown>
    switch (below(5)) {
      case 0: if (Array.isArray(container)) container.splice(Number(key), 1); else Reflect.deleteProperty(container, key); break
      case 1: if (Array.isArray(container)) container.push(object[key]); else object[`${key}_`] = object[key]; break
      case 2: { const [other, name] = pick(all); object[key] = structuredClone((other as Record<string, unknown>)[name]); break }
      case 3: { const old = object[key]; object[key] = typeof old === 'number' ? old + pick([-1, 1, 0.5, 1e6, -1e6]) : pick(strange); break }
      default: object[key] = structuredClone(pick(strange))
    }
    return copy
  }

  return {
    below, pick, json: changed,
    bytes: (bytes) => { for (;;) { const result = damaged(bytes); if (!result.equals(bytes)) return result } },
  }
}
