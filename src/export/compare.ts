import { ConfigError, DataError } from '../errors.ts'
import { contextLength } from '../generate/index.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import { noGrad, scope } from '../tensor/index.ts'

/** Tokens that one call of the model sees. */
const window = 128

/** Logits of a model after each token of some text. */
export interface HeldOutLogits {
  readonly tokens: number
  readonly vocabSize: number
  /** [tokens, vocabSize], by windows. */
  readonly rows: readonly Float32Array[]
}

/** Ids in windows that the model can see whole. */
function windowsOf(ids: readonly number[], model: CausalLanguageModel): number[][] {
  const length = Math.min(window, contextLength(model.config))
  return Array.from({ length: Math.ceil(ids.length / length) }, (_, i) => ids.slice(i * length, (i + 1) * length))
}

/** What a model says after each of these tokens, each window of them on its own. */
export async function heldOutLogits(model: CausalLanguageModel, ids: readonly number[]): Promise<HeldOutLogits> {
  if (ids.length === 0) throw new DataError('held-out text: expected at least one token, got none; give a longer text')
  const rows: Float32Array[] = []
  model.eval()
  for (const inputIds of windowsOf(ids, model)) {
    const { logits } = noGrad(() => scope(() => model.forward({ inputIds: [inputIds] })))
    rows.push(Float32Array.from(await logits!.data(), Number))
    logits!.dispose()
  }
  return { tokens: ids.length, vocabSize: model.config.vocabSize, rows }
}

/** How alike two models answer, token by token. */
export interface Agreement {
  /** How many tokens were compared. */
  readonly tokens: number
  /** Share of tokens after which both models have the same most likely next token. */
  readonly top1: number
  /** Mean of KL(source || copy) over tokens, in nats. */
  readonly kl: number
  readonly largestKl: number
}

/** log(sum(exp)) and the place of the largest of a row. */
function summarise(row: Float32Array): { logSum: number, best: number } {
  let best = 0
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i
  const top = row[best]!
  let sum = 0
  for (const value of row) sum += Math.exp(value - top)
  return { logSum: top + Math.log(sum), best }
}

/** Compares what two models say after the same tokens. */
export function compareLogits(source: HeldOutLogits, copy: HeldOutLogits): Agreement {
  const { tokens, vocabSize } = source
  if (copy.tokens !== tokens || copy.vocabSize !== vocabSize) {
    throw new ConfigError(`compare: expected ${tokens} rows of ${vocabSize} logits of both models, got ${copy.tokens} of ${copy.vocabSize}; compare on the same tokens`)
  }
  let [same, sum, largestKl] = [0, 0, 0]
  source.rows.forEach((block, i) => {
    for (let at = 0; at < block.length; at += vocabSize) {
      const [p, q] = [block.subarray(at, at + vocabSize), copy.rows[i]!.subarray(at, at + vocabSize)]
      const [a, b] = [summarise(p), summarise(q)]
      let kl = 0
      for (let j = 0; j < vocabSize; j++) {
        const logP = p[j]! - a.logSum
        kl += Math.exp(logP) * (logP - (q[j]! - b.logSum))
      }
      if (a.best === b.best) same++
      sum += kl
      // A NaN must not look like agreement.
      largestKl = kl <= largestKl ? largestKl : kl
    }
  })
  return { tokens, top1: same / tokens, kl: sum / tokens, largestKl }
}
