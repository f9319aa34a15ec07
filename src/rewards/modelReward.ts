import { ConfigError } from '../errors.ts'
import type { Classifier } from '../models/index.ts'
import { noGrad, scope } from '../tensor/index.ts'
import type { Tokenizer } from '../tokenizers/index.ts'
import type { AnyRow, RewardFunction } from './types.ts'

/** What the reward by a reward model takes. */
export interface ModelRewardOptions {
  name?: string
  /** Of the reward model, where it is not the policy's: the text of prompt and completion is encoded anew. */
  tokenizer?: Tokenizer
  /** Of the policy: what its chat template puts after an answer's end, such as a line break, is read too, as it was when the reward model learned. */
  policyTokenizer?: Tokenizer
}

/** The tokens that a chat template puts after the end-of-turn token of an answer. */
function afterAnswer(tokenizer: Tokenizer): number[] {
  if (tokenizer.chatTemplate === undefined || tokenizer.eosTokenId === undefined) return []
  const conversation = tokenizer.applyChatTemplate([{ role: 'user', content: 'a' }, { role: 'assistant', content: 'a' }])
  const end = conversation.lastIndexOf(tokenizer.eosTokenId)
  return end < 0 ? [] : conversation.slice(end + 1)
}

/**
 * Scores prompt and completion with a reward model, which must have one label. It reads the policy's tokens as they are, or with a tokenizer of its own
 * their text. null for what is longer than its context.
 */
export function modelReward<Row = AnyRow>(classifier: Classifier, { name = 'rewardModel', tokenizer, policyTokenizer }: ModelRewardOptions = {}): RewardFunction<Row> {
  if (classifier.numLabels !== 1) throw new ConfigError(`modelReward: expected a reward model with one label, got ${classifier.numLabels}: ${classifier.labels.join(', ')}`)
  const { model } = classifier
  const after = policyTokenizer ? afterAnswer(policyTokenizer) : []
  const reward: RewardFunction<Row> = async (samples) => {
    const sequences = samples.map(({ prompt, completion, promptIds, completionIds }) => {
      if (!tokenizer) {
        const ended = typeof prompt !== 'string' && after.length > 0 && completionIds.at(-1) === policyTokenizer?.eosTokenId
        return Int32Array.of(...promptIds, ...completionIds, ...ended ? after : [])
      }
      if (typeof prompt === 'string') return Int32Array.from(tokenizer.encode(prompt + completion))
      return Int32Array.from(tokenizer.applyChatTemplate([...prompt, { role: 'assistant', content: completion }]))
    })
    const fitting = sequences.flatMap(({ length }, i) => length > 0 && length <= model.config.maxPositionEmbeddings ? [i] : [])
    const result: (number | null)[] = samples.map(() => null)
    if (fitting.length === 0) return result
    const wasTraining = model.training
    model.eval()
    const logits = scope(() => noGrad(() => classifier.forward({ inputIds: fitting.map((i) => sequences[i]!) })))
    model.train(wasTraining)
    const scores = await logits.data()
    logits.dispose()
    fitting.forEach((i, at) => { result[i] = Number(scores[at]) })
    return result
  }
  return Object.defineProperty(reward, 'name', { value: name })
}
