import { AnnealError } from '../errors.ts'

/** What a scope releases. */
export interface Disposable_ {
  dispose(): void
  /** Called when the outermost scope ends and lets go of this. */
  leaveScopes(): void
}

let current: Disposable_[] | null = null

/** Hands `resource` to the innermost scope, which disposes of it at its end; without a scope it lives until its own dispose(). */
export function track(resource: Disposable_): void {
  current?.push(resource)
}

/** Whether a scope is open. */
export const inScope = (): boolean => current !== null

function collect(value: unknown, into: Set<unknown>): void {
  if (typeof value !== 'object' || value === null) return
  if (into.has(value)) return
  into.add(value)
  if (Array.isArray(value)) for (const item of value) collect(item, into)
  else if (Object.getPrototypeOf(value) === Object.prototype) for (const item of Object.values(value)) collect(item, into)
}

/**
 * Runs `body` and releases every tensor made in it, except those it returns (alone, in arrays or in plain objects), which the surrounding scope then
 * holds. What a gradient still needs stays alive until the backward pass has used it. `body` must be synchronous.
 */
export function scope<T>(body: () => T): T {
  const outer = current
  const mine: Disposable_[] = []
  current = mine
  let result: T
  try {
    result = body()
  } catch (error) {
    current = outer
    for (const resource of mine) resource.dispose()
    throw error
  }
  current = outer
  if (result instanceof Promise) {
    for (const resource of mine) resource.dispose()
    result.catch(() => undefined)
    throw new AnnealError('ERR_SCOPE', 'scope: the function must be synchronous, but returned a Promise; await outside of scope() and return tensors from it')
  }
  const kept = new Set<unknown>()
  collect(result, kept)
  for (const resource of mine) {
    if (!kept.has(resource)) resource.dispose()
    else if (outer) outer.push(resource)
    else resource.leaveScopes()
  }
  return result
}

/**
 * Runs the body of an operation. Outside of any scope, what it made and does not return is released at its end, also where it throws: disposing of an
 * operation's results is enough. In a scope it is left to that scope.
 */
export const resultsOnly = <T>(body: () => T): T => current ? body() : scope(body)

/** Runs `body` outside any scope: what it makes lives until its own dispose(). For parameters and optimizer state. */
export function unscoped<T>(body: () => T): T {
  const outer = current
  current = null
  try {
    return body()
  } finally {
    current = outer
  }
}
