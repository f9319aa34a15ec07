import { ConfigError } from '../../errors.ts'
import { AutoModelForCausalLM, parseConfig, type CausalLanguageModel, type ModelConfig } from '../../models/index.ts'
import type { ModelDtype } from '../../models/index.ts'
import { didYouMean } from '../../suggest.ts'

/** The names that config.json may have for the number of layers. */
const layerCounts = ['num_hidden_layers', 'n_layer']

/** The teacher's config with only the layers `layers`. */
function shortened(config: ModelConfig, layers: readonly number[]): ModelConfig {
  const { numHiddenLayers, raw } = config
  for (const layer of layers) {
    if (layer >= numHiddenLayers) throw new ConfigError(`initFromTeacher: expected layers from 0 to ${numHiddenLayers - 1}, which the teacher has, got ${layer}`)
  }
  const key = layerCounts.find((name) => name in raw) ?? layerCounts[config.kind === 'gpt2' ? 1 : 0]!
  const types = raw['layer_types']
  return parseConfig({ ...raw, [key]: layers.length, ...(Array.isArray(types) ? { layer_types: layers.map((layer) => types[layer]!) } : {}) }, 'initFromTeacher')
}

/** A new model of the teacher's shape whose layer i is a copy of the teacher's layer `layers[i]`, everything else copied too. */
export function studentOf(teacher: CausalLanguageModel, layers: readonly number[], dtype: ModelDtype): CausalLanguageModel {
  const student = AutoModelForCausalLM.fromConfig(shortened(teacher.config, layers), { dtype, device: teacher.device })
  student.generationConfig = teacher.generationConfig
  try {
    const source = new Map(teacher.everyName())
    for (const [name, parameter] of student.namedParameters()) {
      const theirs = name.replace(/\.(layers|h)\.(\d+)\./, (_, list: string, i: string) => `.${list}.${layers[Number(i)]!}.`)
      const from = source.get(theirs)
      if (!from) throw new ConfigError(`initFromTeacher: the teacher has no parameter ${JSON.stringify(theirs)}${didYouMean(theirs, source.keys())}; load it without adapters or quantization`)
      parameter.tensor.device.kernels.convert(parameter.tensor.handle, from.tensor.handle)
    }
    return student
  } catch (error) {
    student.dispose()
    throw error
  }
}
