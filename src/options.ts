import { z } from 'zod'
import { ConfigError } from './errors.ts'
import { otherName } from './otherNames.ts'
import { didYouMean } from './suggest.ts'

/**
 * An object that is made when it is first used. A schema of zod takes longer to make than to use, and an import of anneal brings all of them: made at once, they
 * would be a third of its time.
 */
export function lazily<T extends object>(make: () => T): T {
  let made: T | undefined
  const object = (): T => made ??= make()
  return new Proxy({} as T, {
    get: (_, key) => Reflect.get(object(), key) as unknown,
    set: (_, key, value) => Reflect.set(object(), key, value),
    has: (_, key) => Reflect.has(object(), key),
    ownKeys: () => Reflect.ownKeys(object()),
    getPrototypeOf: () => Reflect.getPrototypeOf(object()),
    getOwnPropertyDescriptor(_, key) {
      const descriptor = Reflect.getOwnPropertyDescriptor(object(), key)
      // A proxy may call nothing fixed that its own target lacks.
      return descriptor && { ...descriptor, configurable: true }
    },
  })
}

/** A shape of options without some of them. */
export function omit<T extends object, K extends keyof T>(shape: T, ...names: K[]): Omit<T, K> {
  return Object.fromEntries(Object.entries(shape).filter(([name]) => !names.includes(name as K))) as Omit<T, K>
}

/** The same with every array readonly, so that what is declared `as const` fits too. */
type ReadonlyArrays<T> = T extends (...args: never[]) => unknown ? T
  : T extends readonly unknown[] ? { readonly [K in keyof T]: ReadonlyArrays<T[K]> }
  : T extends object ? { [K in keyof T]: ReadonlyArrays<T[K]> } : T

/** What a user may give for a schema of options. */
export type OptionsOf<S extends z.ZodType> = ReadonlyArrays<z.input<S>>

/** Where a model lives, as an option of every command and method that makes one. */
export const deviceOption = () =>
  z.string().optional().describe('cpu, cuda, or cuda:1 for a further GPU; by default the first GPU where there is one, else the CPU')

/** What stands at a path of the options. */
const valueAt = (options: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>((value, part) => (typeof value === 'object' && value !== null ? (value as Record<PropertyKey, unknown>)[part] : undefined), options)

/** What was expected, in words; of alternatives, all. */
function messageOf(issue: z.core.$ZodIssue, options: unknown): string {
  if (issue.code === 'invalid_union') {
    const messages = issue.errors.flatMap((errors) => errors.map((one) => messageOf(one, options).replace(/, received \w+$/, '')))
    return [...new Set(messages)].join(', or ')
  }
  const value = valueAt(options, issue.path)
  const hint = issue.code === 'invalid_value' && typeof value === 'string' ? didYouMean(value, issue.values.map(String)) : ''
  return issue.message.replace(/^Invalid (?:input|option): /, '') + hint
}

const kindOf = (value: unknown): string => Array.isArray(value) ? 'an array' : typeof value === 'function' ? 'a function' : typeof value === 'string' ? JSON.stringify(value.slice(0, 100)) : String(value)

/** The options that a function was given; throws ConfigError, which says what it takes, where they are no object. `example` is some of them, as in the object. */
export function givenOptions<T extends object>(name: string, options: T, example: string): T {
  if (typeof (options as unknown) === 'object' && (options as T | null) !== null && !Array.isArray(options)) return options
  throw new ConfigError(`${name}: expected an object of options, such as { ${example} }, got ${kindOf(options)}`)
}

/** A problem of an options object in words: an option's path, what was expected, and the right spelling where a name or a choice is unknown. */
export interface OptionProblem { path: readonly PropertyKey[], message: string }

/** The problems that one issue of a schema stands for. */
export function describeIssue(schema: z.ZodObject, issue: z.core.$ZodIssue, options: unknown): OptionProblem[] {
  if (issue.code !== 'unrecognized_keys') return [{ path: issue.path, message: messageOf(issue, options) }]
  let known: readonly string[] = Object.keys(schema.shape)
  for (const part of issue.path) {
    let inner = schema.shape[String(part)] as { shape?: Record<string, unknown>; unwrap?: () => never } | undefined
    while (inner && !inner.shape && inner.unwrap) inner = inner.unwrap()
    if (inner?.shape) known = Object.keys(inner.shape)
  }
  return issue.keys.map((name) => ({ path: [...issue.path, name], message: `unknown option${otherName(name, known) || didYouMean(name, known)}` }))
}

/** Checks options against a schema and fills in defaults; throws ConfigError naming every wrong option. */
export function parseOptions<S extends z.ZodObject>(schema: S, options: unknown, what: string): z.output<S> {
  const parsed = schema.safeParse(options)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.flatMap((issue) => describeIssue(schema, issue, options))
  const lines = problems.map(({ path, message }) => `${path.map(String).join('.') || what}: ${message}`)
  throw new ConfigError(lines.join('\n'), { cause: parsed.error })
}
