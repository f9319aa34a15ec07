import { during } from '../activity.ts'
import { ConfigError } from '../errors.ts'
import { quantizeLayers, resolveQuantization, type CausalLanguageModel, type QuantizationConfig, type TokenArray } from '../models/index.ts'
import { headToQuantize, quantizeHeadOf, withBlocks } from '../models/quantizedHead.ts'
import { layersToQuantize, outputsFirst, quantizeWeight, replaceByQuantized, type QuantizedWeight } from '../models/quantizedLayers.ts'
import { toDtype } from '../ops/index.ts'
import { noGrad, scope, unscoped, type Tensor } from '../tensor/index.ts'
import { givenOptions, parseOptions, type OptionsOf } from '../options.ts'
import { foldAwqScales } from './awq.ts'
import { gptqFactor, gptqQuantize, type GptqFactor } from './gptq.ts'
import { layerByLayer, type InputStatistics } from './layerwise.ts'
import { quantizeModelSchema } from './options.ts'

/** What `quantizeModel` takes: format, method and calibration sequences. */
export type QuantizeModelOptions = OptionsOf<typeof quantizeModelSchema> & {
  /** Token ids of texts like those the model is for; gptq and awq need them: a hundred sequences of some hundred tokens. */
  readonly calibration?: readonly TokenArray[]
  /** Called after each layer of the model. */
  readonly onProgress?: (progress: { readonly layers: number, readonly of: number }) => void
}

/**
 * Quantises the linear layers of a loaded model in place, its head, always to the nearest, only where `head` says so. 'rtn' rounds each weight to the nearest; 'gptq' (int4, int8) and 'awq' (every
 * format) calibrate with text, layer by layer. Parameters that stay, such as biases, are the same objects, but for norms that AWQ scales. Throws
 * ConfigError for a model that is quantised already.
 */
export function quantizeModel(model: CausalLanguageModel, options: QuantizeModelOptions): Promise<void> {
  return during({ what: 'quantising the model' }, () => quantizeInPlace(model, givenOptions('quantizeModel', options, "format: 'int4', method: 'gptq', calibration")))
}

async function quantizeInPlace(model: CausalLanguageModel, options: QuantizeModelOptions): Promise<void> {
  const { calibration, onProgress, ...rest } = options
  const { method, dampPercent, ...quantize } = parseOptions(quantizeModelSchema, rest, 'quantizeModel')
  const config = withBlocks(model, resolveQuantization(quantize))
  const chosen = layersToQuantize(model, config)
  if (config.head !== undefined) headToQuantize(model, config)
  if (method === 'rtn') return quantizeLayers(model, config)
  if (!calibration) throw new ConfigError(`calibration: expected sequences of token ids, which ${method} needs, got none`)
  if (method === 'gptq' && config.format !== 'int4' && config.format !== 'int8') throw new ConfigError(`method: expected format int4 or int8 for gptq, got ${config.format}; use awq or rtn`)
  let layers = 0
  const of = model.config.numHiddenLayers
  await layerByLayer(model, calibration, async (all) => {
    const inputs = new Map([...all].filter(([name]) => chosen.has(name)))
    if (method === 'awq') await foldAwqScales(model, inputs, config)
    const factors = new Map<InputStatistics, GptqFactor>()
    for (const [name, statistics] of inputs) {
      const layer = chosen.get(name)!
      const weight = unscoped(() => noGrad(() => scope(() => toDtype(outputsFirst(layer, layer.weight.tensor), 'float32').alias())))
      try {
        replaceByQuantized(model, name, method === 'awq' ? await quantizeWeight(weight, config, `${name}.weight`) : await gptq(weight, statistics, factors, config, dampPercent))
      } finally {
        weight.dispose()
      }
    }
    onProgress?.({ layers: ++layers, of })
  })
  if (config.head !== undefined) await quantizeHeadOf(model, config)
  model.quantizationConfig = config
}

/** Rounds W [out, in]. Layers with one input share its factor. */
async function gptq(weight: Tensor, statistics: InputStatistics, factors: Map<InputStatistics, GptqFactor>, { format, block = weight.dim(-1), zeroPoints }: QuantizationConfig, dampPercent: number): Promise<QuantizedWeight> {
  const factor = factors.get(statistics) ?? await gptqFactor(statistics.gram, dampPercent)
  factors.set(statistics, factor)
  return { weight: await gptqQuantize(weight, factor, { format: format as 'int4' | 'int8', block, zeroPoints }), nested: null }
}
