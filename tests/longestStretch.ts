/** Processor time of this process so far, in milliseconds: unlike the clock, it does not run while other processes have the cores. */
const processorTime = (): number => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** Runs `work` and returns the longest time, in milliseconds of processor time, that the event loop waited for its turn. */
export async function longestStretch(work: () => Promise<unknown>): Promise<number> {
  let [longest, running] = [0, true]
  let last = processorTime()
  const tick = (): void => {
    const now = processorTime()
    longest = Math.max(longest, now - last)
    last = now
    if (running) setImmediate(tick)
  }
  setImmediate(tick)
  await work()
  // The tick after the last stretch has still to come.
  await new Promise((resolve) => { setImmediate(resolve) })
  running = false
  return longest
}

/** The shortest of several tries: what a collection of garbage or a neighbour adds to one is not the work's own. */
export async function leastOfThree(measure: () => Promise<number>): Promise<number> {
  return Math.min(await measure(), await measure(), await measure())
}
