import { AnnealError } from '../errors.ts'

/** What a scope releases. */
export interface Disposable_ {
  dispose(): void
  /** Called when the outermost scope ends and lets go of this. */
  leaveScopes(): void
}

/** What is made while `body` runs. */
interface Frame {
  readonly made: Disposable_[]
  /** Whether its end releases what was made; in unscoped() only an error does. */
  readonly releases: boolean
}

let current: Frame | null = null

/** Hands `resource` to the innermost scope, which disposes of it at its end; false where there is none, so that it lives until its own dispose(). */
export function track(resource: Disposable_): boolean {
  current?.made.push(resource)
  return current !== null
}

/** Runs `body` in a frame of its own; what it made is disposed of where it throws. */
function framed<T>(frame: Frame, body: () => T): T {
  const outer = current
  current = frame
  try {
    return body()
  } catch (error) {
    for (const resource of frame.made) resource.dispose()
    throw error
  } finally {
    current = outer
  }
}

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
  const made: Disposable_[] = []
  const result = framed({ made, releases: true }, body)
  if (result instanceof Promise) {
    for (const resource of made) resource.dispose()
    result.catch(() => undefined)
    throw new AnnealError('ERR_SCOPE', 'scope: the function must be synchronous, but returned a Promise; await outside of scope() and return tensors from it')
  }
  const kept = new Set<unknown>()
  collect(result, kept)
  for (const resource of made) {
    if (!kept.has(resource)) resource.dispose()
    else if (current) current.made.push(resource)
    else resource.leaveScopes()
  }
  return result
}

/**
 * Runs the body of an operation. Outside of any scope, what it made and does not return is released at its end, also where it throws: disposing of an
 * operation's results is enough. In a scope it is left to that scope.
 */
export const resultsOnly = <T>(body: () => T): T => current?.releases ? body() : scope(body)

/**
 * Runs `body` outside any scope: what it makes lives until its own dispose(). For parameters and optimizer state. Where it throws, what it made is released.
 */
export function unscoped<T>(body: () => T): T {
  const made: Disposable_[] = []
  const result = framed({ made, releases: false }, body)
  for (const resource of made) resource.leaveScopes()
  return result
}
