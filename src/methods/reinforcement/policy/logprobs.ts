import type { CausalLanguageModel } from '../../../models/index.ts'
import { autocast, noGrad, scope, type TypedArray } from '../../../tensor/index.ts'
import { completionStart, tokensOf } from './batch.ts'
import type { Rollout } from '../rollouts/rollouts.ts'

export interface LogprobPass {
  temperature: number
  bf16: boolean
  /** Rows of a forward pass. */
  batchSize: number
}

interface TokenNumbers { logprobs: Float32Array; entropies: Float32Array }

/** log p and entropy of each completion token under the model, or under `through`'s, without gradient and without dropout. */
export async function tokenNumbersOf(
  model: CausalLanguageModel, rollouts: readonly Rollout[], { temperature, bf16, batchSize }: LogprobPass, through: <T>(body: (model: CausalLanguageModel) => T) => T = (body) => body(model),
): Promise<TokenNumbers[]> {
  const wasTraining = model.training
  model.eval()
  try {
    const parts: Promise<TokenNumbers[]>[] = []
    for (let begin = 0; begin < rollouts.length; begin += batchSize) parts.push(enqueue(rollouts.slice(begin, begin + batchSize), temperature, bf16, through))
    return (await Promise.all(parts)).flat()
  } finally {
    model.train(wasTraining)
  }
}

/** The log-probabilities alone. */
export const logprobsOf = async (...args: Parameters<typeof tokenNumbersOf>): Promise<Float32Array[]> => (await tokenNumbersOf(...args)).map(({ logprobs }) => logprobs)

async function enqueue(rollouts: readonly Rollout[], temperature: number, bf16: boolean, through: <T>(body: (model: CausalLanguageModel) => T) => T): Promise<TokenNumbers[]> {
  const { inputIds, shiftLabels } = tokensOf(rollouts)
  const { reading } = through((own) => noGrad(() => autocast(bf16 ? 'bfloat16' : 'float32', () => scope(() => {
    const { logprob, entropy } = own.logprobs({ inputIds, shiftLabels, temperature })
    return { reading: Promise.all([logprob.data(), entropy.data()]) }
  }))))
  const [logprob, entropy] = await reading
  let at = 0
  return rollouts.map((rollout, i) => {
    const begin = at + completionStart(rollout)
    at += inputIds[i]!.length
    const part = (values: TypedArray): Float32Array => Float32Array.from(values.subarray(begin, at), Number)
    return { logprobs: part(logprob), entropies: part(entropy) }
  })
}
