// Proves that config.json of every family is read as transformers reads it, and that a wrong one is refused by field.
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import { configToJson, createConfig, parseConfig, readConfig, type DecoderConfig, type RawConfig } from '../../src/models/config.ts'

const recorded = new URL('../recorded/models/', import.meta.url)
const rawOf = (name: string) => JSON.parse(readFileSync(new URL(`${name}/config.json`, recorded), 'utf8')) as Record<string, RawConfig[string]>

const llama = { model_type: 'llama', vocab_size: 160, hidden_size: 32, intermediate_size: 56, num_hidden_layers: 2, num_attention_heads: 4 }
const qwen2 = { ...llama, model_type: 'qwen2' }
const gemma3 = { ...llama, model_type: 'gemma3_text' }
const gpt2 = { model_type: 'gpt2', vocab_size: 163, n_embd: 40, n_layer: 2, n_head: 5 }

describe('reading config.json', () => {
  test('of every recorded family', async () => {
    for (const name of ['gpt2', 'llama2', 'llama3', 'llama-rope', 'qwen2', 'qwen3', 'mistral', 'gemma3']) {
      const config = await readConfig(new URL(name, recorded).pathname)
      expect(config.architecture).toBe((rawOf(name).architectures as string[])[0])
      expect(config.numHiddenLayers).toBe(name === 'gemma3' ? 3 : 2)
    }
  })

  test('families differ where transformers says so', async () => {
    const of = async (name: string) => await readConfig(new URL(name, recorded).pathname) as DecoderConfig
    expect(await of('qwen2')).toMatchObject({ qkvBias: true, outputBias: false, qkNorm: false, slidingWindows: [0, 0], tieWordEmbeddings: true })
    expect(await of('qwen3')).toMatchObject({ qkvBias: false, qkNorm: true, headDim: 16, numKeyValueHeads: 2 })
    expect(await of('mistral')).toMatchObject({ qkvBias: false, slidingWindows: [6, 6] })
    expect(await of('llama-rope')).toMatchObject({ qkvBias: true, outputBias: true, mlpBias: true })
    expect(await of('llama3')).toMatchObject({ eosTokenIds: [2, 3], rope: { type: 'llama3', factor: 8, theta: 500000 } })
  })

  test('missing fields have transformers\' defaults', () => {
    expect(parseConfig(llama)).toMatchObject({
      numKeyValueHeads: 4, headDim: 8, rmsNormEps: 1e-6, maxPositionEmbeddings: 2048, initializerRange: 0.02, tieWordEmbeddings: false, hiddenAct: 'silu',
      eosTokenIds: [], rope: { type: 'default', theta: 10000 },
    })
    expect(parseConfig(gpt2)).toMatchObject({ intermediateSize: 160, maxPositionEmbeddings: 1024, hiddenAct: 'gelu_tanh', tieWordEmbeddings: true, attentionDropout: 0.1 })
    expect(parseConfig({ ...llama, model_type: 'mistral' })).toMatchObject({ slidingWindows: [4096, 4096] })
    expect(parseConfig({ ...llama, model_type: 'mistral', sliding_window: null })).toMatchObject({ slidingWindows: [0, 0] })
    expect(parseConfig({ ...qwen2, use_sliding_window: true, sliding_window: 5, max_window_layers: 1 })).toMatchObject({ slidingWindows: [0, 5] })
    expect(parseConfig({ ...llama, pad_token_id: -1 }).padTokenId).toBeUndefined()
  })

  test('of Gemma 3 as it was released, before transformers 5', () => {
    const config = parseConfig({ ...gemma3, num_hidden_layers: 7, rope_theta: 1e6, rope_local_base_freq: 10_000, rope_scaling: { rope_type: 'linear', factor: 8 }, sliding_window: 512, sliding_window_pattern: 6 })
    expect(config).toMatchObject({
      headDim: 256, hiddenAct: 'gelu_tanh', tieWordEmbeddings: true, slidingWindows: [512, 512, 512, 512, 512, 0, 512], rope: { type: 'linear', theta: 1e6, factor: 8 },
      localRope: { type: 'default', theta: 10_000 }, attentionScale: 1 / 16, embeddingScale: Math.sqrt(32), normOffset: 1, postNorms: true,
    })
    const { raw: _, ...again } = parseConfig(configToJson(config, 'float32'))
    const { raw: __, ...whole } = config
    expect(again).toEqual(whole)
    expect(parseConfig(gemma3)).toMatchObject({ rope: { type: 'default', theta: 1e6 }, localRope: { theta: 10_000 }, slidingWindows: [4096, 4096], maxPositionEmbeddings: 131_072 })
  })

  test('an old file without model_type is known by its class', () => {
    expect(parseConfig({ ...llama, model_type: null, architectures: ['LLaMAForCausalLM'] }).modelType).toBe('llama')
  })

  test('auto_map and unknown keys are kept and never used', () => {
    const raw = { ...llama, auto_map: { AutoConfig: 'evil.Config' }, new_key: [1, { a: null }] }
    expect(configToJson(parseConfig(raw), 'float32')).toMatchObject({ auto_map: raw.auto_map, new_key: raw.new_key })
  })
})

describe('a new config', () => {
  test('takes camelCase names', () => {
    const config = createConfig({
      modelType: 'llama', vocabSize: 160, hiddenSize: 32, intermediateSize: 56, numHiddenLayers: 2, numAttentionHeads: 4, ropeTheta: 5000,
      ropeScaling: { ropeType: 'linear', factor: 2 }, bosTokenId: undefined,
    })
    expect(config).toMatchObject({ vocabSize: 160, rope: { type: 'linear', theta: 5000, factor: 2 } })
    expect(configToJson(config, 'bfloat16')).toMatchObject({ rope_theta: 5000, rope_scaling: { rope_type: 'linear', factor: 2 }, dtype: 'bfloat16', architectures: ['LlamaForCausalLM'] })
  })

  test('of GPT-2 takes the general names and writes GPT-2\'s', () => {
    const config = createConfig({ modelType: 'gpt2', vocabSize: 160, hiddenSize: 32, numHiddenLayers: 2, numAttentionHeads: 4, maxPositionEmbeddings: 64 })
    const written = configToJson(config, 'float32')
    expect(written).toMatchObject({ n_embd: 32, n_layer: 2, n_head: 4, n_positions: 64, n_inner: 128 })
    expect(written).not.toHaveProperty('hidden_size')
    expect(parseConfig(written)).toMatchObject({ hiddenSize: 32, maxPositionEmbeddings: 64 })
  })

  test('survives writing and reading', () => {
    for (const name of ['gpt2', 'llama2', 'llama3', 'llama-rope', 'qwen2', 'qwen3', 'mistral', 'gemma3']) {
      const { raw: _, ...config } = parseConfig(rawOf(name))
      const { raw: __, ...again } = parseConfig(configToJson(parseConfig(rawOf(name)), 'float32'))
      expect(again).toEqual(config)
    }
  })
})

describe('a wrong config is refused', () => {
  test.each([
    ['unknown model type', { ...llama, model_type: 'lama' }, /model_type: expected a model anneal knows: gpt2 .*llama .*got "lama"; did you mean "llama"/],
    ['unknown class', { architectures: ['Qwen2ForCausalLn'] }, /architectures: expected .*did you mean "Qwen2ForCausalLM"/],
    ['nothing at all', {}, /architectures: expected a model anneal knows/],
    ['another head', { ...llama, architectures: ['LlamaForSequenceClassification'] }, /architectures: expected LlamaForCausalLM/],
    ['class and type apart', { ...llama, architectures: ['Qwen2ForCausalLM'] }, /model_type "llama" and architectures \["Qwen2ForCausalLM"\] contradict/],
    ['unknown quantized weights', { ...llama, quantization_config: { quant_method: 'aqlm' } }, /quantization_config\.quant_method: expected bitsandbytes, gptq or awq, got "aqlm"/],
    ['quantized weights of 5 bits', { ...llama, quantization_config: { quant_method: 'gptq', bits: 5 } }, /quantization_config\.bits: expected 2, 3, 4 or 8, got 5/],
    ['no vocabulary', { ...llama, vocab_size: undefined }, /vocab_size: expected a whole number .* got nothing/],
    ['a size in words', { ...llama, hidden_size: '32' }, /hidden_size: expected a whole number .* got "32"/],
    ['a fraction', { ...llama, hidden_size: 32.5 }, /hidden_size: .* got 32\.5/],
    ['a negative size', { ...llama, intermediate_size: -1 }, /intermediate_size: .* got -1/],
    ['no layers', { ...llama, num_hidden_layers: 0 }, /num_hidden_layers: .* got 0/],
    ['endless layers', { ...llama, num_hidden_layers: 1e9 }, /num_hidden_layers: expected a whole number from 1 to 10000/],
    ['heads that do not divide', { ...llama, num_attention_heads: 5 }, /hidden_size: expected a multiple of num_attention_heads \(5\)/],
    ['key heads that do not divide', { ...llama, num_key_value_heads: 3 }, /num_key_value_heads: expected a divisor of num_attention_heads \(4\), got 3/],
    ['an odd head', { ...llama, head_dim: 10 }, /head_dim: expected a head size that is a multiple of 8/],
    ['an odd derived head', { ...llama, hidden_size: 48 }, /hidden_size \/ num_attention_heads: .* got 12/],
    ['unknown activation', { ...llama, hidden_act: 'silo' }, /hidden_act: expected one of .* got "silo"; did you mean "silu"/],
    ['a polluting activation', { ...llama, hidden_act: 'constructor' }, /hidden_act: expected one of/],
    ['no epsilon', { ...llama, rms_norm_eps: 0 }, /rms_norm_eps: expected a number above 0/],
    ['certain dropout', { ...llama, attention_dropout: 1 }, /attention_dropout: expected a number from 0/],
    ['a word for a flag', { ...llama, tie_word_embeddings: 'yes' }, /tie_word_embeddings: expected true or false, got "yes"/],
    ['bad token ids', { ...llama, eos_token_id: [2, 'x'] }, /eos_token_id: expected a token id or a list/],
    ['partial rotation', { ...llama, partial_rotary_factor: 0.5 }, /partial_rotary_factor: expected 1: this architecture turns whole heads/],
    ['layer types too short', { ...qwen2, layer_types: ['full_attention'] }, /layer_types: expected one entry for each of num_hidden_layers \(2\), got 1/],
    ['unknown layer type', { ...qwen2, layer_types: ['full_attention', 'linear_attention'] }, /layer_types\.1: expected "full_attention" or "sliding_attention", got "linear_attention"/],
    ['sliding layers without a window', { ...qwen2, layer_types: ['full_attention', 'sliding_attention'] }, /layer_types\.1: .*use_sliding_window is off/],
    ['Gemma 3 with capped logits', { ...gemma3, final_logit_softcapping: 30 }, /final_logit_softcapping: expected null, as Gemma 3 was released, got 30/],
    ['Gemma 3 as an encoder', { ...gemma3, use_bidirectional_attention: true }, /use_bidirectional_attention: expected false/],
    ['Gemma 3 with an unknown layer type', { ...gemma3, layer_types: ['full_attention', 'chunked'] }, /layer_types\.1: expected "full_attention" or "sliding_attention", got "chunked"/],
    ['Gemma 3 with a short list of layer types', { ...gemma3, layer_types: ['full_attention'] }, /layer_types: expected one entry for each of num_hidden_layers \(2\), got 1/],
    ['Gemma 3 with local frequencies that grow', { ...gemma3, rope_parameters: { sliding_attention: { rope_type: 'dynamic', factor: 2 } } }, /sliding_attention\.rope_type: expected "default" or "linear", got "dynamic"/],
    ['Gemma 3 with vision', { ...gemma3, model_type: 'gemma3' }, /model_type: expected a model anneal knows: .*gemma3_text .*got "gemma3"/],
    ['GPT-2 heads', { ...gpt2, n_head: 3 }, /n_embd: expected a multiple of n_head \(3\)/],
    ['GPT-2 with both names apart', { ...gpt2, hidden_size: 48 }, /hidden_size: expected the value of n_embd \(40\), got 48/],
    ['GPT-2 with cross attention', { ...gpt2, add_cross_attention: true }, /add_cross_attention: expected false/],
  ] as [string, RawConfig, RegExp][])('%s', (_, raw, message) => {
    expect(() => parseConfig(raw, 'm/config.json')).toThrow(ConfigError)
    expect(() => parseConfig(raw, 'm/config.json')).toThrow(message)
    expect(() => parseConfig(raw, 'm/config.json')).toThrow(/^m\/config\.json: /)
  })
})

describe('any config', () => {
  const bases = ['gpt2', 'llama2', 'llama3', 'llama-rope', 'qwen2', 'qwen3', 'mistral', 'gemma3'].map(rawOf)
  const keys = [...new Set([...bases.flatMap((base) => Object.keys(base)), 'rope_scaling', 'rope_theta', 'partial_rotary_factor', 'quantization_config', '__proto__'])]
  const rope = fc.record({
    rope_type: fc.constantFrom('default', 'linear', 'dynamic', 'yarn', 'llama3', 'longrope'), rope_theta: fc.jsonValue(), factor: fc.jsonValue(), low_freq_factor: fc.jsonValue(),
    high_freq_factor: fc.jsonValue(), original_max_position_embeddings: fc.jsonValue(), short_factor: fc.jsonValue(), attention_factor: fc.jsonValue(),
  }, { requiredKeys: ['rope_type'] })
  const value = fc.oneof(fc.jsonValue(), fc.integer(), rope, fc.constantFrom(0, -1, 1, 7, 1e300, 2 ** 53, 'constructor', '__proto__'))

  test('is read or refused with a ConfigError, and pollutes nothing', () => {
    fc.assert(fc.property(fc.constantFrom(...bases), fc.array(fc.tuple(fc.constantFrom(...keys), value), { maxLength: 3 }), (base, changes) => {
      const raw = JSON.parse(JSON.stringify(base)) as Record<string, unknown>
      for (const [key, changed] of changes) Object.defineProperty(raw, key, { value: changed, enumerable: true, configurable: true, writable: true })
      try {
        const config = parseConfig(raw as RawConfig)
        parseConfig(JSON.parse(JSON.stringify(configToJson(config, 'float32'))) as RawConfig)
      } catch (error) {
        expect(error).toBeInstanceOf(ConfigError)
      }
    }), { numRuns: 2000 })
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
  })
})
