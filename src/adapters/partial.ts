import { ConfigError } from '../errors.ts'
import type { Module } from '../nn/index.ts'
import type { Adapter } from './adapter.ts'
import type { BitfitOptions, FreezeOptions } from './options.ts'
import { OwnParameters } from './ownParameters.ts'
import { modulesOwning, sites } from './targets.ts'

/** Some of the model's parameters, trained on a copy. */
function ownAdapter(model: Module, options: BitfitOptions | FreezeOptions, isMeant: (name: string) => boolean, nothing: string): Adapter {
  const own = new OwnParameters(model, isMeant)
  if (own.size === 0) throw new ConfigError(nothing)
  return {
    options,
    parameters: () => new Map(own.parameters),
    activate(on) { own.activate(on) },
    merge() { own.merge(model) },
    remove() { own.dispose() },
  }
}

/** Every bias. */
export const createBitfit = (model: Module, options: BitfitOptions): Adapter =>
  ownAdapter(model, options, (name) => name.endsWith('.bias'), 'bitfit: the model has no biases (Llama-shaped models have none but those of Qwen2\'s attention); use another adapter, such as lora')

/** The last layers, or the first. */
export function createFreeze(model: Module, options: FreezeOptions): Adapter {
  const { freezeTrainableLayers: count, freezeTrainableModules, freezeExtraModules } = options
  const number = (path: string): number => Number(/^(?:\w+\.)*?(?:layers|h)\.(\d+)(?:\.|$)/.exec(path)?.[1] ?? -1)
  const total = Math.max(...[...sites(model)].map(([path]) => number(path))) + 1
  if (Math.abs(count) > total) throw new ConfigError(`freezeTrainableLayers: expected from -${total} to ${total}, the model's layers, got ${count}`)
  const isLayer = (layer: number): boolean => layer >= 0 && (count >= 0 ? layer >= total - count : layer < -count)
  const isModule = freezeTrainableModules.length ? modulesOwning(model, freezeTrainableModules) : () => true
  const isExtra = freezeExtraModules.length ? modulesOwning(model, freezeExtraModules) : () => false
  return ownAdapter(model, options, (name) => (isLayer(number(name)) && isModule(name)) || isExtra(name), 'freeze: nothing is left to train; raise freezeTrainableLayers or name freezeExtraModules')
}
