import { givenOptions } from '../options.ts'
import type { Dataset } from '../data/index.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import { Scorer, type LossResult, type ScoringOptions } from './scorer.ts'

/**
 * The loss of a model on examples, weighted by tokens: the sum over all labels that count divided by their number, as training normalises it.
 * Packed examples are sequences of their own.
 */
export async function evaluateLoss(model: CausalLanguageModel, dataset: Dataset, options: ScoringOptions = {}): Promise<LossResult> {
  givenOptions('evaluateLoss', options, 'maxTokensPerBatch: 2048')
  const scorer = new Scorer(model, options)
  try {
    for (let i = 0; i < dataset.length; i++) await scorer.add(dataset.get(i))
    return await scorer.end()
  } finally {
    scorer.dispose()
  }
}
