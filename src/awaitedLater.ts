/** The promise itself, marked as one that is awaited later: where it rejects before that, Node does not end the process for it. */
export function awaitedLater<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined)
  return promise
}
