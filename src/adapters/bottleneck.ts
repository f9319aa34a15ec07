import { ConfigError } from '../errors.ts'
import { LinearLayer, type Module } from '../nn/index.ts'
import type { Device } from '../tensor/index.ts'
import type { Adapter } from './adapter.ts'
import { BottleneckLinear, BottleneckPart } from './bottleneckLayer.ts'
import type { BottleneckOptions } from './options.ts'
import { displace, place } from './placement.ts'
import { sites } from './targets.ts'

/** The projections that end a layer's attention and its feed-forward part, in the families anneal has. */
const attentionEnds = /\.(?:self_attn\.o_proj|attn\.c_proj)$/
const feedForwardEnds = /\.mlp\.(?:down_proj|c_proj)$/

const tensorNames = ['adapter_down_weight', 'adapter_down_bias', 'adapter_up_weight', 'adapter_up_bias'] as const

/** A bottleneck after each sub-layer, or after each feed-forward part. Nothing is active yet. */
export function createBottleneck(model: Module, name: string, options: BottleneckOptions, { seed, device }: { seed: number, device: Device }): Adapter {
  const ends = [...sites(model)].filter((site): site is [string, LinearLayer] => site[1] instanceof LinearLayer
    && (feedForwardEnds.test(site[0]) || (options.architecture === 'houlsby' && attentionEnds.test(site[0]))))
  if (!ends.length) throw new ConfigError('bottleneck adapters stand after o_proj, down_proj or c_proj of a layer, and this model has none')
  const layers = ends.map(([path, target]) => {
    const part = new BottleneckPart(target.outFeatures, options)
    for (const key of tensorNames) part[key].initialise(`${path}.${key}`, seed, 'float32', device)
    return { path, part, layer: place(model, path, BottleneckLinear, name, part) }
  })
  return {
    options,
    parameters: () => new Map(layers.flatMap(({ path, part }) => tensorNames.map((key) => [`${path}.${key}`, part[key]] as const))),
    activate(on) { for (const { part } of layers) part.active = on },
    remove() { for (const { path, layer } of layers) displace(model, path, layer, name) },
  }
}
