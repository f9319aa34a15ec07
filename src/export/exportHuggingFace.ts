import { ConfigError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import type { CausalLanguageModel, SaveOptions } from '../models/index.ts'
import { Conv1D, Linear } from '../nn/index.ts'
import { LinearLayer } from '../nn/linear.ts'
import type { Tokenizer } from '../tokenizers/index.ts'

/**
 * Writes a folder that transformers, vLLM and others load: config.json, generation_config.json, safetensors, tokenizer and chat template. Throws
 * ConfigError for adapters and quantised layers, which are to be merged or dequantised first.
 */
export async function exportHuggingFace(model: CausalLanguageModel, tokenizer: Tokenizer, folder: string, options: Pick<SaveOptions, 'dtype' | 'maxShardSize'> = {}): Promise<void> {
  givenOptions('exportHuggingFace', options, "dtype: 'bfloat16'")
  for (const [name, module] of model.namedModules()) {
    if (module instanceof LinearLayer && !(module instanceof Linear || module instanceof Conv1D)) {
      throw new ConfigError(`${name}: expected a full-precision layer to export, got ${module.constructor.name}; merge the adapter or dequantise the model first`)
    }
  }
  await model.savePretrained(folder, options)
  await tokenizer.savePretrained(folder)
}
