import { TokenizerError } from '../errors.ts'

/** A JSON object read field by field; every complaint names the file and the path of the field. */
export class Fields {
  readonly value: Readonly<Record<string, unknown>>
  readonly path: string

  constructor(value: unknown, path: string) {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new TokenizerError(`${path}: expected an object, got ${describe(value)}`)
    }
    this.value = value as Record<string, unknown>
    this.path = path
  }

  has(key: string): boolean {
    return Object.hasOwn(this.value, key) && this.value[key] !== null && this.value[key] !== undefined
  }

  fail(key: string, problem: string): never {
    throw new TokenizerError(`${this.path}.${key}: ${problem}`)
  }

  raw(key: string): unknown {
    return Object.hasOwn(this.value, key) ? this.value[key] : undefined
  }

  string(key: string, fallback?: string): string {
    if (!this.has(key) && fallback !== undefined) return fallback
    const value = this.raw(key)
    return typeof value === 'string' ? value : this.fail(key, `expected a string, got ${describe(value)}`)
  }

  optionalString(key: string): string | undefined {
    return this.has(key) ? this.string(key) : undefined
  }

  boolean(key: string, fallback: boolean): boolean {
    if (!this.has(key)) return fallback
    const value = this.raw(key)
    return typeof value === 'boolean' ? value : this.fail(key, `expected true or false, got ${describe(value)}`)
  }

  /** A whole number of at least 0. */
  count(key: string, fallback?: number): number {
    if (!this.has(key) && fallback !== undefined) return fallback
    const value = this.raw(key)
    return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
      ? value
      : this.fail(key, `expected a whole number of at least 0, got ${describe(value)}`)
  }

  array(key: string): readonly unknown[] {
    const value = this.raw(key)
    return Array.isArray(value) ? value : this.fail(key, `expected an array, got ${describe(value)}`)
  }

  object(key: string): Fields {
    return new Fields(this.raw(key), `${this.path}.${key}`)
  }

  /** The elements of an array of objects. */
  objects(key: string): Fields[] {
    return this.array(key).map((value, index) => new Fields(value, `${this.path}.${key}[${index}]`))
  }

  oneOf<T extends string>(key: string, allowed: readonly T[], fallback?: T): T {
    const value = this.string(key, fallback)
    const found = allowed.find((name) => name === value)
    return found ?? this.fail(key, `expected one of ${allowed.join(', ')}, got ${JSON.stringify(value)}`)
  }
}

/** A short name for a JSON value, for error messages. */
export function describe(value: unknown): string {
  if (value === undefined) return 'nothing'
  if (value === null) return 'null'
  if (Array.isArray(value)) return `an array of ${value.length}`
  if (typeof value === 'object') return 'an object'
  const text = JSON.stringify(value)
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}
