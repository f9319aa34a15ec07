import { basename } from 'node:path'
import { givenOptions } from '../options.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import type { Tokenizer } from '../tokenizers/index.ts'
import { modelMetadata } from './gguf/metadata.ts'
import { ropeFactors } from './gguf/rope.ts'
import type { GgufType } from './gguf/tensors.ts'
import { tokenizerMetadata } from './gguf/tokenizer.ts'
import { weightSources } from './gguf/weights.ts'
import { writeGguf } from './gguf/writer.ts'

/** What `exportGguf` takes beside model, tokenizer and path. */
export interface ExportGgufOptions {
  /** Of the matrices; vectors stay float32. Default bf16. */
  readonly type?: GgufType
  /** general.name. Default: the file's name without its ending. */
  readonly name?: string
  /** llama.cpp's name for how the tokenizer cuts text into words, where its pattern is not known. */
  readonly preTokenizer?: string | undefined
}

/** What `exportGguf` wrote. */
export interface ExportedGguf {
  readonly path: string
  readonly byteLength: number
  /** What llama.cpp will do otherwise than the source. */
  readonly warnings: readonly string[]
}

/**
 * Writes a model with its tokenizer, chat template and stop tokens as a GGUF file for llama.cpp, Ollama and LM Studio. A piece of a tensor is in
 * memory at a time, and the file appears only when complete. Throws ConfigError for what llama.cpp cannot compute, and for adapters and quantised
 * layers, which are to be merged or dequantised first.
 */
export async function exportGguf(model: CausalLanguageModel, tokenizer: Tokenizer, path: string, options: ExportGgufOptions = {}): Promise<ExportedGguf> {
  givenOptions('exportGguf', options, "type: 'q8_0'")
  const { type = 'bf16', name = basename(path, '.gguf'), preTokenizer } = options
  const warnings: string[] = []
  const metadata = new Map([...modelMetadata(model.config, { type, name }, warnings), ...tokenizerMetadata(model, tokenizer, preTokenizer, warnings)])
  const tensors = [...(model.config.kind === 'decoder' ? ropeFactors(model.config) : []), ...weightSources(model, type)]
  const narrow = tensors.find(({ format, shape }) => (type === 'q8_0' || type === 'q4_0') && format === 'F16' && shape.length > 1)
  if (narrow) warnings.push(`${narrow.name} and matrices like it stay F16: their rows of ${narrow.shape.at(-1)!} are no multiple of 32 numbers`)
  const { byteLength } = await writeGguf(path, metadata, tensors)
  return { path, byteLength, warnings }
}
