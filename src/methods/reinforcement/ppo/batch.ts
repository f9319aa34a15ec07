/** One answer with what its tokens are trained on. */
export interface PpoRow {
  /** Prompt and answer. */
  ids: Int32Array
  promptLength: number
  /** 1 for tokens of the answer that the policy wrote. */
  mask: Uint8Array
  /** Of the answer's tokens, when it was sampled. */
  logprobs: Float32Array
  advantages: Float32Array
  /** Before each token and, for an answer with room left, after the last. */
  values: Float32Array
  returns: Float32Array
}

/** A micro-batch. The sums over the whole optimizer step are what its losses are divided by. */
export interface PpoBatch {
  rows: readonly PpoRow[]
  /** Trained tokens of the step. */
  tokens: number
  /** Trained values of the step. */
  places: number
}

/** Whether each value of a row is trained: those before tokens that the policy wrote, and the one after the last. */
export const isTrainedPlace = (row: Pick<PpoRow, 'mask'>, place: number): boolean => place >= row.mask.length || row.mask[place] !== 0

const count = (length: number, test: (i: number) => boolean): number => Array.from({ length }, (_, i) => i).filter(test).length
export const trainedTokens = (rows: readonly PpoRow[]): number => rows.reduce((sum, { mask }) => sum + count(mask.length, (t) => mask[t] !== 0), 0)
export const trainedPlaces = (rows: readonly PpoRow[]): number => rows.reduce((sum, row) => sum + count(row.values.length, (t) => isTrainedPlace(row, t)), 0)

/** Where the tokens and values of rows lie among their hidden states, one row after another. */
export function layout(rows: readonly { ids: Int32Array; promptLength: number; places: number }[]): { inputIds: Int32Array; cuSeqlens: Int32Array; policyRows: Int32Array; nextIds: Int32Array; valueRows: Int32Array } {
  const cuSeqlens = new Int32Array(rows.length + 1)
  rows.forEach(({ ids }, i) => { cuSeqlens[i + 1] = cuSeqlens[i]! + ids.length })
  const inputIds = new Int32Array(cuSeqlens.at(-1)!)
  const [policyRows, nextIds, valueRows]: [number[], number[], number[]] = [[], [], []]
  rows.forEach(({ ids, promptLength, places }, i) => {
    inputIds.set(ids, cuSeqlens[i])
    const first = cuSeqlens[i]! + promptLength - 1
    for (let t = promptLength; t < ids.length; t++) { policyRows.push(first + t - promptLength); nextIds.push(ids[t]!) }
    for (let t = 0; t < places; t++) valueRows.push(first + t)
  })
  return { inputIds, cuSeqlens, policyRows: Int32Array.from(policyRows), nextIds: Int32Array.from(nextIds), valueRows: Int32Array.from(valueRows) }
}

/** All rows' numbers one after another. */
export function joined(parts: readonly ArrayLike<number>[]): Float32Array {
  const result = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) { result.set(part, at); at += part.length }
  return result
}

/** Rows dealt out to `count` lists of nearly the same length, in order; empty ones are left out. */
export function dealt<T>(items: readonly T[], count: number): T[][] {
  return Array.from({ length: count }, (_, i) => items.slice(Math.floor(i * items.length / count), Math.floor((i + 1) * items.length / count))).filter(({ length }) => length > 0)
}
