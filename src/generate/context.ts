import type { CausalLanguageModel, ModelConfig } from '../models/index.ts'

/** Most tokens of one sequence. Positions that linear and dynamic scaling stretch reach `factor` times as far as config.json says, but Gemma 3's says all. */
export function contextLength(config: ModelConfig): number {
  const { maxPositionEmbeddings } = config
  if (config.kind !== 'decoder' || config.localRope || (config.rope.type !== 'linear' && config.rope.type !== 'dynamic')) return maxPositionEmbeddings
  return Math.floor(maxPositionEmbeddings * Math.max(1, config.rope.factor))
}

/** What of it is left to tokens of prompt and answer. */
export const contextRoom = (model: CausalLanguageModel): number => contextLength(model.config) - (model.virtualTokens?.count ?? 0)
