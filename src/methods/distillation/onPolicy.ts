import { ConfigError, DataError } from '../../errors.ts'
import { collate, ignoreIndex, philox, type Batch, type Example } from '../../data/index.ts'
import { generate } from '../../generate/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'

export interface SamplingOptions { maxNewTokens: number; samplingTemperature: number; topP: number; topK: number; bf16: boolean }

/** The tokens before the last completion of a row; throws where there are none, or where several rows are packed into one. */
export function promptOf({ inputIds, labels, sequenceLengths }: Example): Int32Array {
  if ((sequenceLengths?.length ?? 1) > 1) throw new ConfigError('packing: rows are packed, but completions are sampled for one prompt at a time; set packing to false')
  let at = labels.length - 1
  while (at >= 0 && labels[at] === ignoreIndex) at--
  while (at >= 0 && labels[at] !== ignoreIndex) at--
  if (at < 0) throw new DataError('a row has no prompt to sample a completion for: every token of it is trained; give rows of prompt and completion or messages, or leave lmbda and seqKd out')
  return inputIds.slice(0, at + 1)
}

/** A number from [0, 1) that belongs to a step's micro-batch. */
export function chance(seed: number, step: number, microBatch: number): number {
  return philox([seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0], [step >>> 0, microBatch >>> 0, 0, 0x6c6d6264])[0] / 2 ** 32
}

/**
 * A batch of prompts continued by a model, trained on the completions alone. Prompts that leave no room for a token are an error. The same seed
 * draws the same completions of the same weights.
 */
export async function sampledBatch(model: CausalLanguageModel, prompts: readonly Int32Array[], seed: number, options: SamplingOptions): Promise<Batch> {
  const { maxNewTokens, samplingTemperature, topP, topK, bf16 } = options
  const outputs = await generate(model, null, prompts, { maxNewTokens, temperature: samplingTemperature, topP, topK, bf16, doSample: true, seed })
  return collate(outputs.map(({ tokenIds }, i): Example => {
    const prompt = prompts[i]!
    return {
      inputIds: Int32Array.from([...prompt, ...tokenIds]),
      labels: Int32Array.from([...prompt.map(() => ignoreIndex), ...tokenIds]),
    }
  }))
}
