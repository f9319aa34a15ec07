// How late the event loop is: what a server in the same process would feel.
import { monitorEventLoopDelay } from 'node:perf_hooks'

/** Milliseconds between two looks at the clock: each takes a processor from the threads that compute, and one every millisecond cost products 5 %. */
const resolution = 10

/** Starts to watch; the result tells the 99th percentile of the delay so far, in seconds. */
export function watchLag(): () => number {
  const histogram = monitorEventLoopDelay({ resolution })
  histogram.enable()
  return () => {
    histogram.disable()
    // What is recorded is the time between two looks, the waiting included.
    return histogram.count === 0 ? 0 : Math.max(0, histogram.percentile(99) / 1e9 - resolution / 1e3)
  }
}
