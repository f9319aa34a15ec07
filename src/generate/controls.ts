import type { LogitsProcessor } from './logitsProcessor.ts'

/** Sequences of token ids with what is added to the logit of the last one where it would complete its sequence. */
export type SequenceBias = readonly (readonly [ids: readonly number[], bias: number])[]

/** Whether `ids` ends with all of `sequence` but its last id, so that the next token may complete it. */
function awaitsLast(ids: Int32Array, sequence: readonly number[]): boolean {
  const begin = ids.length - (sequence.length - 1)
  if (begin < 0) return false
  for (let i = 0; i < sequence.length - 1; i++) if (ids[begin + i] !== sequence[i]) return false
  return true
}

/** The last ids of those sequences that the next token would complete. */
export const completions = (sequences: readonly (readonly number[])[], ids: Int32Array): number[] =>
  sequences.filter((sequence) => awaitsLast(ids, sequence)).map((sequence) => sequence.at(-1)!)

/** In transformers' order of sums, single tokens first; of equal sequences the last counts. */
export function orderedBias(pairs: SequenceBias): SequenceBias {
  const distinct = [...new Map(pairs.map((pair) => [pair[0].join(), pair])).values()]
  return [...distinct.filter(([sequence]) => sequence.length === 1), ...distinct.filter(([sequence]) => sequence.length > 1)]
}

/** What is added to the logits after `ids`, by token; summed in float32. */
export function biasAfter(pairs: SequenceBias, ids: Int32Array): Map<number, number> {
  const bias = new Map<number, number>()
  for (const [sequence, value] of pairs) {
    if (!awaitsLast(ids, sequence)) continue
    const last = sequence.at(-1)!
    bias.set(last, Math.fround((bias.get(last) ?? 0) + Math.fround(value)))
  }
  return bias
}

/** The tokens that came after the last `size - 1` ones wherever those stood before: each would repeat `size` tokens. */
export function repetitions(ids: Int32Array, size: number): number[] {
  const result = new Set<number>()
  const suffix = ids.length - (size - 1)
  for (let begin = 0; begin + size <= ids.length; begin++) {
    let same = 0
    while (same < size - 1 && ids[begin + same] === ids[suffix + same]) same++
    if (same === size - 1) result.add(ids[begin + size - 1]!)
  }
  return [...result]
}

/** Ends an answer with one of the ids, as transformers' ForcedEOSTokenLogitsProcessor does. */
export const forceEnd = (ids: readonly number[]): LogitsProcessor => ({ logits }) => {
  logits.fill(-Infinity)
  for (const id of ids) logits[id] = 0
}
