import { readFileSync } from 'node:fs'
import { Tokenizer, trainBpe } from '../../src/tokenizers/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import type { GenerateOptions } from '../../src/generate/index.ts'

/** What tests/recorded/generate/record.py wrote. */
export interface Recorded {
  families: Record<string, { cases: { prompt: number[], options: Record<string, unknown>, tokens: number[] }[], defaultLength: number }>
  distributions: { prompt: number[], cases: { options: Record<string, unknown>, tokens: number[], probabilities: number[] }[] }
  windows: { inputIds: number[], maxLength: number, stride: number, nll: number, tokens: number, correct: number }[]
}

export const recorded = JSON.parse(readFileSync(new URL('../recorded/generate/recorded.json', import.meta.url), 'utf8')) as Recorded

/** transformers' option names in anneal's spelling. */
export const camelCase = (options: Record<string, unknown>): GenerateOptions =>
  Object.fromEntries(Object.entries(options).map(([key, value]) => [key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()), value]))

const text = 'the quick brown fox jumps over the lazy dog. she sells sea shells by the sea shore; naïve café, größer als Ωmega — 你好世界 🦊. '

/** A byte-level tokenizer of 300 tokens and a random model for it, whose samples are any bytes. */
export async function textModel(): Promise<{ tokenizer: Tokenizer, model: CausalLanguageModel }> {
  const tokenizer = await trainBpe([text.repeat(4)], { vocabSize: 300, specialTokens: ['<|endoftext|>', '<|im_start|>', '<|im_end|>'] })
  const model = AutoModelForCausalLM.fromConfig({
    modelType: 'llama', vocabSize: tokenizer.embeddingRows, hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 256,
    initializerRange: 0.2, bosTokenId: null, eosTokenId: null,
  }, { seed: 7 })
  return { tokenizer, model }
}
