/** What is to be done if the process is to end in the middle of things. */
export interface EarlyEnd {
  /** Stops what would go on writing, such as threads. */
  readonly stop?: () => Promise<unknown>
  /** Removes what is half written; synchronous, so that nothing comes between it and the end. */
  readonly undo?: () => void
}

const pending = new Set<EarlyEnd>()

/** Registers what an early end has to do; returns a function that forgets it. */
export function onEarlyEnd(end: EarlyEnd): () => void {
  pending.add(end)
  return () => { pending.delete(end) }
}

/** Longest wait for threads to stop. */
const patience = 1000

/** Stops what writes, removes half-written files and locks, and ends the process. */
export async function endEarly(exitCode: number): Promise<never> {
  const late = new Promise((resolve) => { setTimeout(resolve, patience) })
  await Promise.race([Promise.allSettled([...pending].map(async ({ stop }) => stop?.())), late])
  endAtOnce(exitCode)
}

/** Milliseconds for file operations that are under way, which no later one follows. */
const underWay = 20

/** The same without waiting for threads. */
export function endAtOnce(exitCode: number): never {
  undoAll()
  // What was under way may have come after what was removed.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, underWay)
  undoAll()
  process.exit(exitCode)
}

function undoAll(): void {
  for (const { undo } of pending) {
    // What cannot be removed is found and removed as a leftover later.
    try { undo?.() } catch { continue }
  }
}
