// The shapes of the models whose steps are timed, and what a pass through them costs at least.
import { AutoModelForCausalLM, createConfig } from '../../src/models/index.ts'
import type { CausalLanguageModel, ModelConfig } from '../../src/models/index.ts'
import { randomNumbers } from '../../tests/cases/random.ts'
import type { StepDType } from './step.ts'

const noDropout = { residPdrop: 0, embdPdrop: 0, attnPdrop: 0 }
const qwen2 = { modelType: 'qwen2', ropeTheta: 1e6, tieWordEmbeddings: true, rmsNormEps: 1e-6 }

/** Whether models are so small that only the paths are tried: --small. The peers read it, too. */
const small = process.env.ANNEAL_BENCH_SMALL === '1'

export const shapes = {
  /** GPT-2 124M. */
  gpt2: () => createConfig({
    modelType: 'gpt2', nPositions: 1024, ...(small ? { vocabSize: 512, nEmbd: 64, nLayer: 2, nHead: 4 } : { vocabSize: 50257, nEmbd: 768, nLayer: 12, nHead: 12 }), ...noDropout,
  }),
  /** A GPT so small that calls and JavaScript are what it costs. */
  tiny: () => createConfig({ modelType: 'gpt2', vocabSize: 512, nPositions: 64, nEmbd: 128, nLayer: 2, nHead: 4, ...noDropout }),
  /** Qwen2.5-0.5B. */
  qwen: () => createConfig({
    ...qwen2, numKeyValueHeads: 2, maxPositionEmbeddings: 32768,
    ...(small ? { vocabSize: 512, hiddenSize: 128, intermediateSize: 192, numHiddenLayers: 2, numAttentionHeads: 4 }
      : { vocabSize: 151936, hiddenSize: 896, intermediateSize: 4864, numHiddenLayers: 24, numAttentionHeads: 14 }),
  }),
} satisfies Record<string, () => ModelConfig>

export type Shape = keyof typeof shapes

/** A model of a shape with random weights. */
export const model = (shape: Shape, dtype: StepDType = 'float32'): CausalLanguageModel => AutoModelForCausalLM.fromConfig(shapes[shape](), { dtype })

/** `length` token ids below `vocabulary`, the same in every run. */
export function ids(length: number, vocabulary: number, seed = ''): number[] {
  const random = randomNumbers(`ids ${length} ${seed}`)
  return Array.from({ length }, () => Math.floor(random() * vocabulary))
}

/** Multiply-adds of the weights, counting 2 for each and token, and of causal attention to `keys` keys. */
export function forwardFlops(model: CausalLanguageModel, tokens: number, keys: number): number {
  const { config } = model
  const table = config.kind === 'gpt2' ? config.maxPositionEmbeddings * config.hiddenSize : 0
  return 2 * (model.numParameters() - table) * tokens + 4 * tokens * keys * config.numAttentionHeads * config.headDim * config.numHiddenLayers
}
