import { Tensor } from '../tensor/index.ts'

/** What the next token of one sequence depends on, besides its logits. */
export interface SamplingRow {
  /** 0 takes the largest logit. */
  readonly temperature: number
  /** 0: off. */
  readonly topK: number
  /** 1: off. */
  readonly topP: number
  /** 0: off. */
  readonly minP: number
  /** 1: off. */
  readonly repetitionPenalty: number
  /** The tokens that the penalty is for, each once. */
  readonly history: ReadonlySet<number>
  /** Token ids that must not come now. */
  readonly banned: readonly number[]
  /** Added to the logits before the penalty, by token. Default: nothing. */
  readonly bias?: ReadonlyMap<number, number>
  /** 32 bits, signed. */
  readonly seed: number
  /** Number of the drawn token in its answer. */
  readonly position: number
}

/** What a sampler gives for each row of logits. */
export interface SampledTokens {
  /** int32 [rows]. */
  readonly token: Tensor
  /** float32 [rows]: log p under softmax(logits) before temperature, filters and bans, as teacher forcing gives it. */
  readonly logprob: Tensor
}

/** Logits that stand in for the model's in some rows, whose log-probabilities stay the model's. */
export interface ReplacedRows {
  readonly rows: readonly number[]
  /** [rows, vocabulary]. */
  readonly logits: Float32Array
}

/** Draws one token for each row of logits [rows, vocabulary]. A row's token does not depend on the other rows. */
export function sampleTokens(logits: Tensor, rows: readonly SamplingRow[], replaced?: ReplacedRows): SampledTokens {
  const { device } = logits
  const { kernels } = device
  const options = new Float32Array(5 * rows.length)
  const draw = new Int32Array(2 * rows.length)
  rows.forEach((row, i) => {
    options.set([row.temperature, row.topK, row.topP, row.minP, row.repetitionPenalty], 5 * i)
    draw.set([row.seed, row.position], 2 * i)
  })
  const history = historyOf(rows)
  const historyTensor = history && Tensor.from(history, [rows.length, history.length / rows.length], { device })
  const allowed = changed(logits, rows, replaced)
  const { token, logprob } = drawTokens(allowed, Tensor.from(options, [rows.length, 5], { device }), Tensor.from(draw, [rows.length, 2], { device }), historyTensor)
  if (allowed !== logits) {
    const [entropy, lse] = [Tensor.empty([rows.length], { device }), Tensor.empty([rows.length], { device })]
    kernels.selective_log_softmax(logprob.handle, entropy.handle, lse.handle, logits.handle, token.handle, 1)
  }
  return { token, logprob }
}

/** The same from tensors: options [rows, 5] and draws [rows, 2] as the sample kernel takes them. */
export function drawTokens(logits: Tensor, options: Tensor, draws: Tensor, history?: Tensor): SampledTokens {
  const { device } = logits
  const token = Tensor.empty([logits.dim(0)], { dtype: 'int32', device })
  const logprob = Tensor.empty([logits.dim(0)], { device })
  device.kernels.sample(token.handle, logprob.handle, logits.handle, options.handle, history?.handle ?? 0, draws.handle)
  return { token, logprob }
}

/** [rows, longest history], padded with -1; undefined where no row has a penalty. */
function historyOf(rows: readonly SamplingRow[]): Int32Array | undefined {
  const longest = rows.reduce((most, row) => row.repetitionPenalty === 1 ? most : Math.max(most, row.history.size), 0)
  if (longest === 0) return undefined
  const result = new Int32Array(rows.length * longest).fill(-1)
  rows.forEach((row, i) => {
    if (row.repetitionPenalty === 1) return
    let at = i * longest
    for (const id of row.history) result[at++] = id
  })
  return result
}

/** A copy of the logits with replaced rows, biases, and -infinity at the banned tokens; the logits themselves where there are none. */
function changed(logits: Tensor, rows: readonly SamplingRow[], replaced: ReplacedRows | undefined): Tensor {
  const changes = rows.map(({ banned, bias }) => ({ banned, ids: [...bias?.keys() ?? []], amounts: [...bias?.values() ?? []] }))
  const most = changes.reduce((count, { banned, ids }) => Math.max(count, banned.length + ids.length), 0)
  if (most === 0 && !replaced) return logits
  const { device } = logits
  const copy = logits.copyAs('float32')
  if (replaced) {
    const values = Tensor.from(replaced.logits, [replaced.rows.length, logits.dim(1)], { device })
    device.kernels.scatter_rows(copy.handle, values.handle, Tensor.from(replaced.rows, [replaced.rows.length], { dtype: 'int32', device }).handle)
  }
  if (most === 0) return copy
  const index = new Int32Array(rows.length * most)
  const change = new Float32Array(rows.length * most)
  changes.forEach(({ banned, ids, amounts }, i) => {
    const [at, after] = [i * most, i * most + banned.length]
    index.set(banned, at)
    change.fill(-Infinity, at, after)
    index.set(ids, after)
    change.set(amounts, after)
  })
  device.kernels.scatter_add_last(copy.handle, Tensor.from(change, [rows.length, most], { device }).handle, Tensor.from(index, [rows.length, most], { device }).handle)
  return copy
}
