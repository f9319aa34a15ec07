import { readFileSync } from 'node:fs'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { Tokenizer } from '../../src/tokenizers/index.ts'
import { folderOf } from '../models/recorded.ts'

/** Recorded model families, each with a recorded tokenizer of its kind. */
export const pairs = [
  ['gpt2', 'gpt2'], ['llama2', 'llama2'], ['llama2', 'unigram'], ['llama3', 'llama3'], ['mistral', 'llama2'], ['qwen2', 'qwen2'], ['qwen3', 'qwen2'],
] as const

/** A recorded tokenizer.json with the tokens of a tokenizer_config.json. */
export function recordedTokenizer(name: string, config: object = {}): Tokenizer {
  return Tokenizer.fromJSON(readFileSync(new URL(`../recorded/tokenizers/${name}.tokenizer.json`, import.meta.url), 'utf8'), config)
}

/** New rows are all the mean of the old, which would make all new tokens one: mixes of two old rows tell them apart. */
async function distinguish(model: CausalLanguageModel, old: number): Promise<void> {
  for (const name of ['transformer.wte.weight', 'model.embed_tokens.weight', 'lm_head.weight']) {
    const table = new Map(model.namedParameters()).get(name)?.tensor
    if (!table) continue
    const [rows, columns] = table.shape as [number, number]
    const values = await table.toArray()
    for (let row = old; row < rows; row++) {
      for (let i = 0; i < columns; i++) values[row * columns + i] = 0.7 * (values[(row % old) * columns + i]! + values[((7 * row) % (old - 1)) * columns + i]!)
    }
    table.copy_(values)
  }
}

/** A recorded model with as many embeddings as the tokenizer needs. */
export async function recordedModel(family: string, tokenizer: Tokenizer): Promise<CausalLanguageModel> {
  const model = await AutoModelForCausalLM.fromPretrained(folderOf(family))
  const old = model.config.vocabSize
  model.resizeTokenEmbeddings(tokenizer.embeddingRows)
  await distinguish(model, old)
  return model
}

/** Logits of a model after some tokens. */
export async function logitsOf(model: CausalLanguageModel, ids: readonly number[]): Promise<Float32Array> {
  const { logits } = model.forward({ inputIds: [[...ids]] })
  const data = await logits!.data()
  logits!.dispose()
  return Float32Array.from(data, Number)
}
