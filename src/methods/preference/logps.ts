import type { CausalLanguageModel } from '../../models/index.ts'
import { exp, sub } from '../../ops/index.ts'
import { noGrad, type Tensor } from '../../tensor/index.ts'
import type { CompletionBatch } from './collate.ts'
import { CompletionRows } from './completionRows.ts'

export interface CompletionLogps {
  /** Of each token, [tokens]. */
  logprob: Tensor
  entropy: Tensor
  rows: CompletionRows
}

/** Log-probabilities of a batch's completions, fused: tokens × vocabulary logits never exist. */
export function completionLogps(model: CausalLanguageModel, batch: CompletionBatch): CompletionLogps {
  const { inputIds, labels, cuSeqlens } = batch
  const { logprob, entropy } = model.logprobs({ inputIds, labels, cuSeqlens })
  return { logprob, entropy, rows: new CompletionRows(batch, logprob) }
}

/**
 * WPO's weight of each completion (arXiv 2406.11827), [rows]: e to the mean over tokens of log p - log Σ p². As log Σ p² = lse(2z) - 2 lse(z), that is
 * the log-probability at temperature 1/2 less the one at 1. No gradient.
 */
export function agreementWeights(model: CausalLanguageModel, batch: CompletionBatch, { logprob, rows }: CompletionLogps): Tensor {
  const { inputIds, labels, cuSeqlens } = batch
  return noGrad(() => exp(rows.mean(sub(model.logprobs({ inputIds, labels, cuSeqlens, temperature: 0.5 }).logprob, logprob.detach()))))
}
