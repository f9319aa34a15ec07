/** The state of the random numbers that operations such as dropout draw from: a seed, and how many streams were used. */
export interface RandomState { seed: number; next: number }

const state: RandomState = { seed: 42, next: 0 }

/** Starts the streams of `seed` again. The same seed and the same operations give the same numbers, on every machine and number of threads. */
export function manualSeed(seed: number, next = 0): void {
  state.seed = seed
  state.next = next
}

/** A stream of its own: numbers drawn from it depend on the seed and the stream only. */
export function nextStream(): { seed: number; stream: number } { return { seed: state.seed, stream: state.next++ } }

/** The state of the global generator; `manualSeed(seed, next)` goes on from it. */
export const randomState = (): RandomState => ({ ...state })
