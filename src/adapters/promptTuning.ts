import { ConfigError } from '../errors.ts'
import type { CausalLanguageModel } from '../models/index.ts'
import type { Module } from '../nn/index.ts'
import { mul, toDtype } from '../ops/index.ts'
import { noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import type { Adapter } from './adapter.ts'
import type { PromptOptions } from './options.ts'
import { languageModel, TrainedTokens, virtualTokensAdapter, type VirtualContext } from './virtualTokens.ts'

/** Ids of tokens whose embeddings are the start; undefined for a random one. */
async function startIds({ config, device }: CausalLanguageModel, { promptTuningInit, promptTuningInitText, numVirtualTokens }: PromptOptions, { encode, seed }: VirtualContext): Promise<readonly number[] | undefined> {
  if (promptTuningInit === 'RANDOM') return undefined
  if (promptTuningInit === 'TEXT') {
    if (promptTuningInitText === undefined) throw new ConfigError('promptTuningInitText: expected a text, as promptTuningInit is "TEXT", got none')
    if (!encode) throw new ConfigError('promptTuningInit: "TEXT" needs a tokenizer; pass { encode: (text) => tokenizer.encode(text) }')
    const ids = encode(promptTuningInitText)
    if (ids.length === 0) throw new ConfigError(`promptTuningInitText: expected a text of at least one token, got ${JSON.stringify(promptTuningInitText)}`)
    return Array.from({ length: numVirtualTokens }, (_, i) => ids[i % ids.length]!)
  }
  using draws = unscoped(() => Tensor.empty([numVirtualTokens], { device }))
  device.kernels.random_uniform(draws.handle, 0, config.vocabSize, seed, 0)
  // A float32 just below the vocabulary's size may round up to it.
  return Array.from(await draws.data() as Float32Array, (draw) => Math.min(Math.floor(draw), config.vocabSize - 1))
}

/** Prompt tuning: trained embeddings before those of every sequence. Equals PEFT's PROMPT_TUNING. */
export async function createPromptTuning(model: Module, options: PromptOptions, context: VirtualContext): Promise<Adapter> {
  const owner = languageModel(model, options.type)
  const { numVirtualTokens } = options
  const tokens = new TrainedTokens('embeddings', numVirtualTokens, owner.config.hiddenSize)
  const ids = context.isLoaded ? undefined : await startIds(owner, options, context)
  if (ids) {
    const wrong = ids.find((id) => !(id >= 0 && id < owner.config.vocabSize))
    if (wrong !== undefined) throw new ConfigError(`promptTuningInitText: the tokenizer gives id ${wrong}, but the model's vocabulary has ids 0 to ${owner.config.vocabSize - 1}; use the model's own tokenizer`)
    const { device } = context
    const scale = owner.config.kind === 'decoder' ? owner.config.embeddingScale : 1
    tokens.embedding.weight.replace(unscoped(() => noGrad(() => scope(() =>
      mul(toDtype(owner.getInputEmbeddings().forward(Tensor.from(ids, [numVirtualTokens], { dtype: 'int32', device })), 'float32'), scale)))))
  }
  return virtualTokensAdapter(owner, options, tokens, context)
}
