import type { LinearLayer } from '../nn/index.ts'
import { bytesOf, type DType } from '../tensor/index.ts'
import { buildMaskedModel } from './autoModels.ts'
import type { AnyModelConfig } from './config.ts'
import { buildModel } from './pretrained.ts'
import type { PretrainedModel } from './pretrainedModel.ts'
import { resolveQuantization, type QuantizationConfig, type QuantizeOption } from './quantizedConfig.ts'
import { headConfig, headToQuantize, withBlocks } from './quantizedHead.ts'
import { layersToQuantize } from './quantizedLayers.ts'

/** What `memoryEstimate` has to know of a run. */
export interface MemoryOptions {
  /** Of weights and activations. Default float32. */
  dtype?: DType
  /** Tokens of one micro-batch, padding excluded. */
  tokens: number
  /** Length of the sequences; only matters for attention dropout on a GPU, which keeps queries × keys. Default: `tokens`. */
  sequenceLength?: number
  /** Where the model is. Default cpu. */
  device?: string
  /** How many parameters are trained. Default: all. */
  trainable?: number
  /** How the linear layers are quantised. Default: they are not. */
  quantize?: QuantizeOption
  gradientCheckpointing?: boolean
  /** Whether dropout is on, as in training. Default true. */
  training?: boolean
}

/** Bytes that a training needs, by what they are for. */
export interface MemoryEstimate {
  parameters: number
  weights: number
  /** float32. */
  gradients: number
  /** AdamW's two moments, and float32 master weights of a 16-bit model. */
  optimizer: number
  /** What one micro-batch keeps for backward(), and its largest working set. */
  activations: number
  total: number
}

/** What one layer keeps for backward(), and the most that it needs besides while it runs; bytes a token. */
function layerBytes(config: AnyModelConfig, bytes: number, sequenceLength: number, dropsOnGpu: boolean): { kept: number, working: number } {
  const { hiddenSize: hidden, intermediateSize: inner, numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = config
  const [q, kv] = [heads * headDim, kvHeads * headDim]
  // Both norms keep their input and give theirs to a product that keeps it too; attention keeps q, k, v, its result and one number a head.
  const shared = 4 * hidden + 2 * q + 2 * kv
  const statistics = 4 * (heads + 2)
  const working = (inner + 2 * hidden) * bytes
  // Attention dropout has no kernel there, and its definition keeps queries × keys: exponentials, probabilities, what they are multiplied by, the products; some six
  // numbers in all, and as many in backward().
  const plain = dropsOnGpu && config.attentionDropout > 0 ? 6 * heads * sequenceLength * bytes : 0
  if (config.kind !== 'decoder') return { kept: (shared + 2 * inner) * bytes + statistics + plain, working: working + plain }
  const normed = config.qkNorm ? (q + kv) * bytes + 4 * (heads + kvHeads) : 0
  // Norms after attention and MLP keep what those give.
  const after = config.postNorms ? 2 * hidden * bytes + 8 : 0
  return { kept: (shared + 3 * inner) * bytes + statistics + normed + after + plain, working: working + plain }
}

/** Numbers in the layers that are quantised, head and embeddings included, and the bytes of their codes, scales and zero points in memory. */
function quantizedSize(model: PretrainedModel, config: QuantizationConfig): { numbers: number, bytes: number } {
  let [numbers, bytes] = [0, 0]
  const count = ({ inFeatures, outFeatures }: LinearLayer, { format, zeroPoints, doubleQuant, block = inFeatures }: QuantizationConfig): void => {
    const size = inFeatures * outFeatures
    numbers += size
    bytes += Math.ceil(format === 'int8' ? size : size / 2) + (4 + (zeroPoints || doubleQuant ? 1 : 0)) * Math.ceil(size / block)
  }
  const whole = withBlocks(model, config)
  for (const layer of layersToQuantize(model, config).values()) count(layer, whole)
  if (config.head !== undefined) count(headToQuantize(model, config).head, headConfig(model, config))
  return { numbers, bytes }
}

/** Estimates the memory of a training before anything is allocated. */
export function memoryEstimate(config: AnyModelConfig, options: MemoryOptions): MemoryEstimate {
  const { dtype = 'float32', tokens, sequenceLength = tokens, gradientCheckpointing = false, training = true, device = 'cpu' } = options
  const model: PretrainedModel = config.kind === 'encoder' ? buildMaskedModel(config) : buildModel(config)
  const parameters = model.numParameters()
  const bytes = bytesOf(dtype)
  const frozen = options.quantize === undefined ? { numbers: 0, bytes: 0 } : quantizedSize(model, resolveQuantization(options.quantize))
  const trainable = options.trainable ?? parameters - frozen.numbers
  const weights = (parameters - frozen.numbers) * bytes + frozen.bytes
  const gradients = trainable * 4
  const optimizer = trainable * (bytes === 2 ? 12 : 8)
  const { kept, working } = layerBytes(config, bytes, sequenceLength, training && device !== 'cpu')
  // The embeddings, the last norm's input and result, and their gradient.
  const ends = 3 * config.hiddenSize * bytes
  const layers = gradientCheckpointing ? config.numHiddenLayers * config.hiddenSize * bytes + kept : config.numHiddenLayers * kept
  const activations = tokens * (layers + working + ends)
  return { parameters, weights, gradients, optimizer, activations, total: weights + gradients + optimizer + activations }
}
