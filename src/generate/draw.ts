import { ConfigError } from '../errors.ts'
import { scope, Tensor, unscoped, type TypedArray } from '../tensor/index.ts'
import type { Answer } from './answer.ts'
import { problemOf, process } from './logitsProcessor.ts'
import { sampleTokens, type SampledTokens, type SamplingRow } from './sampler.ts'

/** What was drawn: steps of as many numbers as there are rows. */
export interface Drawn {
  readonly tokens: TypedArray
  readonly logprobs: TypedArray
  /** Why nothing could be drawn, by the row; its token and log-probability mean nothing. */
  readonly failures: ReadonlyMap<number, unknown>
}

/** For a row whose token does not matter. */
const anyToken: SamplingRow = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, history: new Set(), banned: [], seed: 0, position: 0 }

/**
 * Enqueues the draw of each answer's next token from its row of logits [answers, vocabulary], which it disposes of. Rows with logits processors are read, and
 * drawn once those ran.
 */
export function drawNext(logits: Tensor, answers: readonly Answer[]): () => Promise<Drawn> {
  const vocabulary = logits.dim(1)
  const failures = new Map<number, unknown>()
  answers.forEach(({ banned, position }, i) => {
    if (banned.length < vocabulary || new Set(banned).size < vocabulary) return
    failures.set(i, new ConfigError(`no token can be drawn at step ${position} of the answer: every one is banned; check suppressTokens, badWordsIds and noRepeatNgramSize`))
  })
  const rows: SamplingRow[] = answers.map((answer, i) => failures.has(i) ? anyToken : answer)
  const processed = rows.flatMap((row, i) => row === answers[i] && answers[i].processors.length > 0 ? [i] : [])
  if (processed.length === 0) {
    using own = logits
    const drawn = unscoped(() => scope(() => sampleTokens(own, rows)))
    return () => readDrawn(drawn, failures)
  }
  return async () => {
    try {
      const host = await unscoped(() => scope(() => ({ read: rowsOf(logits, processed).data() }))).read as Float32Array
      processed.forEach((i, at) => {
        const row = host.subarray(at * vocabulary, (at + 1) * vocabulary)
        rows[i] = drawOnly(answers[i]!)
        // Such logits are the model's fault: the draw says so.
        if (problemOf(row)) return
        try {
          row.set(processedLogits(answers[i]!, row))
        } catch (error) {
          failures.set(i, error)
          row.fill(0)
        }
      })
      return await readDrawn(unscoped(() => scope(() => sampleTokens(logits, rows, { rows: processed, logits: host }))), failures)
    } finally {
      logits.dispose()
    }
  }
}

/** What a row with processors leaves to the device. */
const drawOnly = ({ temperature, topK, topP, minP, seed, position }: Answer): SamplingRow => ({ ...anyToken, temperature, topK, topP, minP, seed, position })

/** One row's logits after the other options, as the device computes them, and after the processors. */
function processedLogits(answer: Answer, logits: Float32Array): Float32Array {
  const penalty = Math.fround(answer.repetitionPenalty)
  for (const [id, bias] of answer.bias) logits[id]! += bias
  for (const id of penalty === 1 ? [] : answer.history) {
    const logit = logits[id]!
    logits[id] = logit < 0 ? logit * penalty : logit / penalty
  }
  for (const id of answer.banned) logits[id] = -Infinity
  const { promptTokens, length, eosTokenIds, processors } = answer
  return process(processors, { promptIds: answer.tokens(0, promptTokens), tokenIds: answer.tokens(promptTokens, length), eosTokenIds, logits })
}

/** The drawn tokens and their log-probabilities, once they are there. */
export async function readDrawn({ token, logprob }: SampledTokens, failures: Drawn['failures'] = new Map()): Promise<Drawn> {
  try {
    const [tokens, logprobs] = await Promise.all([token.data(), logprob.data()])
    return { tokens, logprobs, failures }
  } finally {
    token.dispose()
    logprob.dispose()
  }
}

/** Those rows of logits [rows, vocabulary]. */
export function rowsOf(logits: Tensor, rows: readonly number[]): Tensor {
  if (rows.length === logits.dim(0)) return logits
  const result = Tensor.empty([rows.length, logits.dim(1)], { device: logits.device })
  result.device.kernels.gather_rows(result.handle, logits.handle, Tensor.from(rows, [rows.length], { dtype: 'int32', device: logits.device }).handle)
  return result
}
