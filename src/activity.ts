/** One thing that the process is doing, for whoever has to say what an interruption cut off. */
export interface Activity {
  /** As in "interrupted while …". */
  readonly what: string
  /** What stays if the process ends in the middle of it. */
  readonly kept?: (() => string) | undefined
  /** What it does before it stops when its AbortSignal aborts; left out where there is nothing to finish and it may be cut off. */
  readonly finish?: string | undefined
}

const running: Activity[] = []

/** Runs `work` as an activity that `activities()` names. */
export async function during<T>(activity: Activity, work: () => Promise<T>): Promise<T> {
  running.push(activity)
  try {
    return await work()
  } finally {
    running.splice(running.lastIndexOf(activity), 1)
  }
}

/** What is going on, the outermost first. */
export const activities = (): readonly Activity[] => running
