import { ConfigError } from '../../../errors.ts'
import type { Classifier } from '../../../models/sequenceClassification.ts'
import { modelReward, type RewardFunction } from '../../../rewards/index.ts'
import type { Tokenizer } from '../../../tokenizers/index.ts'

/** A reward model as a reward function: its one output at the answer's last token, of the very tokens that the policy read and wrote. */
export function rewardModelFunction(classifier: Classifier, tokenizer: Tokenizer, { where }: { where: string }): RewardFunction<never> {
  if (classifier.numLabels !== 1) throw new ConfigError(`rewardModel: ${where} has ${classifier.numLabels} labels (${classifier.labels.join(', ')}), but a reward is one number; train one with numLabels 1`)
  const rows = classifier.model.config.vocabSize
  if (rows < tokenizer.embeddingRows) throw new ConfigError(`rewardModel: ${where} knows ${rows} tokens, but the policy's tokenizer has ids up to ${tokenizer.embeddingRows - 1}; both need the same tokenizer`)
  return modelReward<never>(classifier)
}
