import { givenOptions } from '../options.ts'
import type { PretrainedModel } from './pretrainedModel.ts'
import { resolveQuantization, type QuantizationConfig, type WeightFormat } from './quantizedConfig.ts'
import { storedConfig } from './quantizedFiles.ts'
import { headToQuantize, quantizeHeadOf, withBlocks } from './quantizedHead.ts'
import { layersToQuantize, outputsFirst, quantizeWeight, replaceByQuantized } from './quantizedLayers.ts'

/** Rounds every chosen layer of a loaded model to the nearest codes, one after another, and the head where the config says so. */
export async function quantizeLayers(model: PretrainedModel, given: QuantizationConfig): Promise<void> {
  givenOptions('quantizeLayers', given, "format: 'nf4', block: 64")
  const config = withBlocks(model, given)
  const chosen = layersToQuantize(model, config)
  if (config.head !== undefined) headToQuantize(model, config)
  for (const [name, layer] of chosen) {
    const stored = layer.weight.tensor
    const weight = outputsFirst(layer, stored)
    try {
      replaceByQuantized(model, name, await quantizeWeight(weight, config, `${name}.weight`))
    } finally {
      if (weight !== stored) weight.dispose()
    }
  }
  if (config.head !== undefined) await quantizeHeadOf(model, config)
  model.quantizationConfig = config
}

/**
 * Rounds the output layer of a model to a few bits, whatever its other layers are: those of a checkpoint of bitsandbytes, GPTQ or AWQ, too. Embeddings that
 * are tied to it share the quantised weight. Throws ConfigError where it is quantised already, carries an adapter, or the block does not divide its rows.
 */
export async function quantizeHead(model: PretrainedModel, format: WeightFormat, options: { block?: number } = {}): Promise<void> {
  const { block } = givenOptions('quantizeHead', options, 'block: 64')
  await quantizeHeadOf(model, resolveQuantization({ format, head: format, ...(block === undefined ? {} : { headBlock: block }) }))
  model.quantizationConfig = storedConfig(model)
}
