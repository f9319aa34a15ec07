import { ConfigError } from '../../errors.ts'
import { Classifier } from '../../models/sequenceClassification.ts'
import { loadRewards, modelReward, type RewardFunction } from '../../rewards/index.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'

export interface RewardSourceArguments {
  reward?: string | string[] | undefined
  rewardModel?: string | undefined
  rewardWeights?: number[] | undefined
}

/** The functions that a program gives and those that `reward` names; a reward model comes after them. Throws ConfigError where nothing judges, or the weights are too many or too few. */
export async function rewardFunctions<Row>(
  { reward, rewardModel, rewardWeights }: RewardSourceArguments, given: readonly RewardFunction<Row>[], environment: 'none' | 'adds' | 'weighed' = 'none',
): Promise<RewardFunction<Row>[]> {
  // A function that a name stands for takes whatever columns there are.
  const functions = [...given, ...reward === undefined ? [] : await loadRewards(reward) as unknown as RewardFunction<Row>[]]
  const count = functions.length + (rewardModel === undefined ? 0 : 1)
  if (count === 0 && environment === 'none') throw new ConfigError('reward: nothing judges the answers; name a reward function, such as reward: exactMatch or reward: ./reward.ts, or give rewardModel or an environment')
  const weighed = count + (environment === 'weighed' ? 1 : 0)
  if (rewardWeights && rewardWeights.length !== weighed) {
    const last = [...rewardModel === undefined ? [] : ['the reward model'], ...environment === 'weighed' ? ['the environment'] : []]
    throw new ConfigError(`rewardWeights: expected ${weighed}, one for each reward function${last.length > 0 ? ` (${last.join(' and ')} last)` : ''}, got ${rewardWeights.length}`)
  }
  return functions
}

/** A reward model as a reward function, and what releases it. */
export interface Judge { reward: RewardFunction<never>, dispose: () => void }

/** The reward model of a folder: its one output at the answer's last token, of the very tokens that the policy read and wrote, and what the chat template puts after them. */
export async function loadJudge(folder: string, tokenizer: Tokenizer, loading: { dtype: 'float32' | 'bfloat16', device?: string | undefined }): Promise<Judge> {
  const classifier = await Classifier.fromPretrained(folder, loading)
  try {
    if (classifier.numLabels !== 1) throw new ConfigError(`rewardModel: ${folder} has ${classifier.numLabels} labels (${classifier.labels.join(', ')}), but a reward is one number; train one with numLabels 1`)
    const rows = classifier.model.config.vocabSize
    if (rows < tokenizer.embeddingRows) throw new ConfigError(`rewardModel: ${folder} knows ${rows} tokens, but the policy's tokenizer has ids up to ${tokenizer.embeddingRows - 1}; both need the same tokenizer`)
    classifier.model.requiresGrad_(false)
    return { reward: modelReward<never>(classifier, { policyTokenizer: tokenizer }), dispose: () => { classifier.dispose() } }
  } catch (error) {
    classifier.dispose()
    throw error
  }
}
