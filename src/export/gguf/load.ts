import { givenOptions } from '../../options.ts'
import { buildModel, type CausalLanguageModel, type ModelDtype } from '../../models/index.ts'
import { defaultDevice, device as deviceOf, type DeviceLike } from '../../tensor/index.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'
import { Metadata, readGgufConfig } from './config.ts'
import { openGguf } from './reader.ts'
import { readGgufTokenizer } from './readTokenizer.ts'
import type { GgufValue } from './types.ts'
import { readWeights } from './weights.ts'

/** What `loadGguf` takes beside the path. */
export interface LoadGgufOptions {
  /** Of the weights in memory, quantised ones too. Default float32. */
  readonly dtype?: ModelDtype
  /** Default: defaultDevice(). */
  readonly device?: DeviceLike | undefined
}

/** What `loadGguf` reads. */
export interface LoadedGguf {
  readonly model: CausalLanguageModel
  /** undefined where the file names a way to cut text into words that anneal does not know. */
  readonly tokenizer: Tokenizer | undefined
  readonly metadata: ReadonlyMap<string, GgufValue>
}

/** Every token that ends an answer, as generation_config.json has them. */
const stops = (metadata: Metadata): number[] =>
  ['eos', 'eot', 'eom'].flatMap((name) => metadata.optional(`tokenizer.ggml.${name}_token_id`, 'number') ?? [])

/**
 * A model from a GGUF file of a GPT-2, Llama, Mistral, Qwen2 or Qwen3 in F32, F16, BF16, Q8_0 or Q4_0, with its tokenizer. Throws FileFormatError or
 * ConfigError naming what does not fit.
 */
export async function loadGguf(path: string, options: LoadGgufOptions = {}): Promise<LoadedGguf> {
  const { dtype = 'float32', device = defaultDevice() } = givenOptions('loadGguf', options, "dtype: 'bfloat16'")
  const file = await openGguf(path)
  try {
    const model = buildModel(await readGgufConfig(file))
    try {
      const tokenizer = readGgufTokenizer(file)
      await readWeights(model, file, dtype, deviceOf(device))
      const eos = stops(new Metadata(file))
      if (eos.length > 0) model.generationConfig = { eos_token_id: eos }
      return { model, tokenizer, metadata: file.metadata }
    } catch (error) {
      model.dispose()
      throw error
    }
  } finally {
    await file.close()
  }
}
