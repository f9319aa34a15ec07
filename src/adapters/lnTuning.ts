import { ConfigError } from '../errors.ts'
import type { Module } from '../nn/index.ts'
import { LayerNorm, RMSNorm } from '../nn/index.ts'
import { didYouMean } from '../suggest.ts'
import type { Adapter } from './adapter.ts'
import type { LnTuningOptions } from './options.ts'
import { OwnParameters } from './ownParameters.ts'
import { matchesTarget, modelTypeOf, modulesOwning, sites } from './targets.ts'

const llama = ['input_layernorm', 'post_attention_layernorm', 'norm'] as const
/** What PEFT trains where no target is named, by model_type. */
const usualNorms: Readonly<Record<string, readonly string[]>> = { llama, mistral: llama, qwen2: ['post_attention_layernorm'], qwen3: ['post_attention_layernorm'], gpt2: ['ln_1', 'ln_2', 'ln_f'] }

/** The norms that PEFT takes for the model. Throws where it has no usual choice. */
export function usualNormsOf(model: Module): readonly string[] {
  const type = modelTypeOf(model)
  return usualNorms[type ?? ''] ?? (() => { throw new ConfigError(`targetModules: there is no usual choice of norms for ${type ?? 'this kind of model'}; name them`) })()
}

/** PEFT's name of a norm's parameter: model.norm.weight is model.norm.ln_tuning_layers.weight. */
const inFile = (name: string): string => name.replace(/\.([^.]+)$/, '.ln_tuning_layers.$1')

/** The norms that the options name, trained on a copy (Zhao et al. 2023): PEFT's LN tuning. */
export function createLnTuning(model: Module, options: LnTuningOptions): Adapter {
  const { targetModules = usualNormsOf(model), excludeModules, modulesToSave } = options
  const norms = [...sites(model)].filter(([, module]) => module instanceof RMSNorm || module instanceof LayerNorm).map(([path]) => path)
  const meant = new Set(norms.filter((path) => matchesTarget(targetModules, path) && (excludeModules === undefined || !matchesTarget(excludeModules, path))))
  if (meant.size === 0) {
    const known = [...new Set(norms.map((path) => path.split('.').at(-1)!))]
    throw new ConfigError(`targetModules: ${JSON.stringify(targetModules)} matches no norm of the model${didYouMean(typeof targetModules === 'string' ? targetModules : targetModules[0] ?? '', known)}; it has ${known.join(', ')}`)
  }
  const own = new OwnParameters(model, (name) => meant.has(name.slice(0, name.lastIndexOf('.'))))
  const saved = modulesToSave.length ? new OwnParameters(model, modulesOwning(model, modulesToSave)) : undefined
  return {
    options,
    parameters: () => new Map([...own.parameters.map(([name, parameter]) => [inFile(name), parameter] as const), ...saved?.parameters ?? []]),
    activate(on) {
      own.activate(on)
      saved?.activate(on)
    },
    merge() {
      own.merge(model)
      saved?.merge(model)
    },
    remove() {
      own.dispose()
      saved?.dispose()
    },
  }
}
