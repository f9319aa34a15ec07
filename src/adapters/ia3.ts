import { ConfigError } from '../errors.ts'
import { EmbeddingLayer, type Module } from '../nn/index.ts'
import type { Device } from '../tensor/index.ts'
import type { Adapter } from './adapter.ts'
import { Ia3Linear, Ia3Part } from './ia3Layer.ts'
import type { Ia3Options } from './options.ts'
import { OwnParameters } from './ownParameters.ts'
import { displace, place } from './placement.ts'
import { matchesTarget, modulesOwning, resolveTargets, usualTargetsOf } from './targets.ts'

/** IA³ over the layers that the options name. Nothing is active yet. */
export function createIa3(model: Module, name: string, options: Ia3Options, { seed, device }: { seed: number, device: Device }): Adapter {
  const targets = resolveTargets(model, 'ia3', options)
  const wanted = modulesOwning(model, options.modulesToSave)
  const feedforward = options.feedforwardModules ?? (options.targetModules === undefined ? usualTargetsOf(model, 'feedforward') : [])
  const layers = targets.map(([path, target]) => {
    if (target instanceof EmbeddingLayer) throw new ConfigError(`targetModules: IA³ scales linear layers, but ${path} is an embedding`)
    const isFeedforward = matchesTarget(feedforward, path)
    const part = new Ia3Part(isFeedforward ? target.inFeatures : target.outFeatures, isFeedforward, options.initIa3Weights)
    part.ia3_l.initialise(`${path}.ia3_l`, seed, 'float32', device)
    return { path, part, layer: place(model, path, Ia3Linear, name, part) }
  })
  const saved = options.modulesToSave.length ? new OwnParameters(model, wanted) : undefined
  return {
    options,
    parameters: () => new Map([...layers.map(({ path, part }) => [`${path}.ia3_l`, part.ia3_l] as const), ...saved?.parameters ?? []]),
    activate(on) {
      for (const { part } of layers) part.active = on
      saved?.activate(on)
    },
    merge() {
      for (const { layer, part } of layers) layer.merge(part)
      saved?.merge(model)
    },
    remove() {
      for (const { path, layer } of layers) displace(model, path, layer, name)
      saved?.dispose()
    },
  }
}
