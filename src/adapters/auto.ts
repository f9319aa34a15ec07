import { access } from 'node:fs/promises'
import { join } from 'node:path'
import { ConfigError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import { readJsonObject } from '../files/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel, type FromPretrainedOptions } from '../models/index.ts'
import { loadAdapter, type LoadAdapterOptions } from './peftFile.ts'

const exists = (path: string): Promise<boolean> => access(path).then(() => true, () => false)

/** What `AutoPeftModelForCausalLM.fromPretrained` takes beside the folder of the adapter. */
export interface AutoPeftOptions extends FromPretrainedOptions, Pick<LoadAdapterOptions, 'isTrainable'> {
  /** Folder of the base model, instead of the one that adapter_config.json names. */
  baseModel?: string | undefined
}

/** Models by their folder, with the adapter where the folder holds one: PEFT's class of that name. */
export const AutoPeftModelForCausalLM = {
  /** The base model that adapter_config.json names, with the adapter active; or an ordinary model where there is no such file. */
  async fromPretrained(folder: string, given: AutoPeftOptions = {}): Promise<CausalLanguageModel> {
    const { baseModel, isTrainable = false, ...options } = givenOptions('fromPretrained', given, "dtype: 'bfloat16'")
    const path = join(folder, 'adapter_config.json')
    if (await exists(join(folder, 'config.json')) || !await exists(path)) return AutoModelForCausalLM.fromPretrained(folder, options)
    const named = baseModel ?? (await readJsonObject(path))['base_model_name_or_path']
    if (typeof named !== 'string') throw new ConfigError(`${path}: base_model_name_or_path is missing; pass baseModel`)
    if (!await exists(join(named, 'config.json'))) throw new ConfigError(`${path}: there is no model folder ${named}, which base_model_name_or_path names; pass baseModel`)
    const model = await AutoModelForCausalLM.fromPretrained(named, options)
    try {
      await loadAdapter(model, folder, { isTrainable, baseModel: named })
      return model
    } catch (error) {
      model.dispose()
      throw error
    }
  },
}
