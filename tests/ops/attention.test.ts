// Proves what attention promises beyond its definition: the same bits with a cache, alone and packed; queries without keys; and its errors.
import { afterAll, describe, expect, test } from 'vitest'
import { attention, attentionProbabilities, Spans, sum } from '../../src/ops/index.ts'
import type { AttentionOptions } from '../../src/ops/index.ts'
import { backward, cpu, scope, Tensor } from '../../src/tensor/index.ts'
import type { DType } from '../../src/tensor/index.ts'
import { roundToBfloat16 } from '../cases/case.ts'
import { spansOf } from '../cases/products.ts'
import { randomNumbers } from '../cases/random.ts'
import { compute, normalisedError, sameBits } from './compare.ts'

const [threads, isa] = [cpu.threads, cpu.isa]
afterAll(() => {
  cpu.threads = threads
  cpu.isa = isa
})

const [heads, kvHeads, width] = [4, 2, 16]
const draw = (tokens: number, heads: number, seed: string): number[] => {
  const random = randomNumbers(seed)
  return Array.from({ length: tokens * heads * width }, () => roundToBfloat16(4 * random() - 2))
}
interface Sequence { q: number[]; k: number[]; v: number[] }
const sequence = (tokens: number, seed: string): Sequence => ({ q: draw(tokens, heads, `${seed} q`), k: draw(tokens, kvHeads, `${seed} k`), v: draw(tokens, kvHeads, `${seed} v`) })

/** Attention over sequences laid one after the other: results and gradients. */
async function run(sequences: readonly Sequence[], lengths: readonly (readonly [number, number])[], options: AttentionOptions, dtype: DType) {
  const joined = (pick: (s: Sequence) => number[], heads: number): Tensor => {
    const numbers = sequences.flatMap(pick)
    return Tensor.from(numbers, [numbers.length / heads / width, heads, width], { dtype }).requiresGrad_()
  }
  const [q, k, v] = [joined((s) => s.q, heads), joined((s) => s.k, kvHeads), joined((s) => s.v, kvHeads)]
  const out = await compute(() => {
    const y = attention(q, k, v, new Spans(spansOf(lengths)), options)
    backward(sum(y))
    return y
  })
  const gradients = await Promise.all([q, k, v].map((x) => x.grad!.data()))
  for (const tensor of [q, k, v]) tensor.dispose()
  return { out, gradients }
}

const variants: [string, AttentionOptions][] = [['plain', {}], ['window', { window: 11 }], ['soft cap', { softCap: 5 }], ['not causal', { causal: false }]]

describe.each(cpu.isas)('%s', (name) => {
  describe.each(['float32', 'bfloat16'] as const)('%s', (dtype) => {
    test.each(variants)('a packed sequence has the bits it has alone, forward and backward: %s', async (_, options) => {
      cpu.isa = name
      const lengths = [[5, 5], [70, 70], [1, 1], [33, 33]] as const
      const sequences = lengths.map(([n], i) => sequence(n, `packed ${i}`))
      for (const count of [1, 3]) {
        cpu.threads = count
        const together = await run(sequences, lengths, options, dtype)
        let token = 0
        for (const [i, [n]] of lengths.entries()) {
          const alone = await run([sequences[i]!], [[n, n]], options, dtype)
          const part = (numbers: typeof alone.out, perToken: number) => numbers.slice(token * perToken, (token + n) * perToken)
          expect(sameBits(part(together.out, heads * width), alone.out)).toBe(true)
          ;[heads, kvHeads, kvHeads].forEach((h, j) => { expect(sameBits(part(together.gradients[j]!, h * width), alone.gradients[j]!), `gradient ${'qkv'[j]!}`).toBe(true) })
          token += n
        }
      }
    })

    test.each(variants.slice(0, 3))('a cache gives what the whole sequence gives: %s', async (_, options) => {
      cpu.isa = name
      const tokens = 90
      const whole = sequence(tokens, 'cache')
      const { out } = await run([whole], [[tokens, tokens]], options, dtype)
      for (const [begin, end] of [[0, 50], [50, 53], [53, 54], [89, 90]] as const) {
        const slice = { q: whole.q.slice(begin * heads * width, end * heads * width), k: whole.k.slice(0, end * kvHeads * width), v: whole.v.slice(0, end * kvHeads * width) }
        const chunk = await run([slice], [[end - begin, end]], options, dtype)
        const expected = out.slice(begin * heads * width, end * heads * width)
        // Blocks may fall differently, so that sums are rounded differently.
        expect(normalisedError(chunk.out, expected), `tokens ${begin} to ${end}`).toBeLessThan(dtype === 'float32' ? 1e-6 : 1e-2)
      }
    })
  })

  test('a query that sees no key gives 0 and has no gradient', async () => {
    cpu.isa = name
    const [q, k, v] = [Tensor.from(draw(5, heads, 'q'), [5, heads, width]), Tensor.from(draw(2, kvHeads, 'k'), [2, kvHeads, width]), Tensor.from(draw(2, kvHeads, 'v'), [2, kvHeads, width])]
    for (const x of [q, k, v]) x.requiresGrad_()
    const out = await compute(() => {
      const y = attention(q, k, v, new Spans([{ queryBegin: 0, queryLength: 5, keyBegin: 0, keyLength: 2 }]))
      backward(sum(y))
      return y
    })
    const blind = 3 * heads * width
    expect(out.slice(0, blind).every((x) => Number(x) === 0)).toBe(true)
    expect(out.slice(blind).every((x) => Number(x) !== 0)).toBe(true)
    expect((await q.grad!.data()).slice(0, blind).every((x) => Number(x) === 0)).toBe(true)
    for (const x of [k, v]) expect((await x.grad!.data()).every((number) => Number.isFinite(Number(number)))).toBe(true)
    for (const tensor of [q, k, v]) tensor.dispose()
  })

  test('keys that no query looks at get a gradient of 0', async () => {
    cpu.isa = name
    const [q, k, v] = [Tensor.from(draw(2, heads, 'q'), [2, heads, width]), Tensor.from(draw(9, kvHeads, 'k'), [9, kvHeads, width]), Tensor.from(draw(9, kvHeads, 'v'), [9, kvHeads, width])]
    for (const x of [q, k, v]) x.requiresGrad_()
    scope(() => { backward(sum(attention(q, k, v, new Spans([{ queryBegin: 0, queryLength: 2, keyBegin: 3, keyLength: 4 }])))) })
    for (const x of [k, v]) {
      const gradient = await x.grad!.data()
      const row = kvHeads * width
      expect(gradient.slice(0, 3 * row).every((number) => Number(number) === 0)).toBe(true)
      expect(gradient.slice(7 * row).every((number) => Number(number) === 0)).toBe(true)
    }
    for (const tensor of [q, k, v]) tensor.dispose()
  })
})

test('large scores do not overflow', async () => {
  const [q, k, v] = [Tensor.full([40, heads, width], 300), Tensor.full([40, kvHeads, width], 300), Tensor.from(draw(40, kvHeads, 'v'), [40, kvHeads, width])]
  const out = await compute(() => attention(q, k, v, new Spans(spansOf([[40, 40]]))))
  expect(out.every((x) => Number.isFinite(Number(x)))).toBe(true)
  for (const tensor of [q, k, v]) tensor.dispose()
})

test('probabilities sum to 1 and see no later key', async () => {
  const q = Tensor.from(draw(6, heads, 'q'), [6, heads, width])
  const k = Tensor.from(draw(6, kvHeads, 'k'), [6, kvHeads, width])
  const p = await compute(() => attentionProbabilities(q, k, k, new Spans(spansOf([[6, 6]])))[0]!)
  for (let row = 0; row < heads * 6; row++) {
    const numbers = Array.from(p.slice(6 * row, 6 * row + 6), Number)
    expect(Math.abs(numbers.reduce((a, b) => a + b, 0) - 1)).toBeLessThan(1e-6)
    expect(numbers.slice(row % 6 + 1).every((x) => x === 0)).toBe(true)
  }
  q.dispose()
  k.dispose()
})

test.each([
  ['spans that leave the keys', [{ queryBegin: 0, queryLength: 4, keyBegin: 2, keyLength: 4 }]],
  ['spans that leave the queries', [{ queryBegin: 1, queryLength: 4, keyBegin: 0, keyLength: 4 }]],
  ['spans that overlap', [{ queryBegin: 0, queryLength: 2, keyBegin: 0, keyLength: 2 }, { queryBegin: 0, queryLength: 2, keyBegin: 0, keyLength: 2 }]],
  ['negative spans', [{ queryBegin: 0, queryLength: 4, keyBegin: -1, keyLength: 4 }]],
])('%s are refused', async (_, spans) => {
  const [q, k] = [Tensor.ones([4, heads, width]), Tensor.ones([4, kvHeads, width])]
  scope(() => { attention(q, k, k, new Spans(spans)) })
  await expect(cpu.fence()).rejects.toMatchObject({ code: 'ERR_KERNEL', message: expect.stringMatching(/^attention: /) as string })
  q.dispose()
  k.dispose()
})

test('shapes that do not fit are refused at the call', () => {
  scope(() => {
    const q = Tensor.ones([4, 3, 16])
    const spans = new Spans(spansOf([[4, 4]]))
    expect(() => attention(q, Tensor.ones([4, 2, 16]), Tensor.ones([4, 2, 16]), spans)).toThrow(/the 3 query heads must be a multiple of the 2 key\/value heads/)
    expect(() => attention(q, Tensor.ones([4, 3, 8]), Tensor.ones([4, 3, 8]), spans)).toThrow(/q and k must have one headDim, but have 16 and 8/)
    expect(() => attention(q, q, Tensor.ones([5, 3, 16]), spans)).toThrow(/v must have shape \[4, 3, 16\]/)
    expect(() => attention(q, q, q, new Spans(spansOf([[3, 4]])))).toThrow(/the spans cover 3 queries, but q has 4 tokens/)
    expect(() => Spans.packed([0, 5, 3])).toThrow(/must not decrease, but goes from 5 to 3 at 2/)
  })
})
