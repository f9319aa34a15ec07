// Proves how options, generation_config.json and transformers' defaults come together.
import { Command } from 'commander'
import { expect, test } from 'vitest'
import { addFlags, normaliseArguments, readOptions } from '../../src/cli/flags.ts'
import { generationSchema, resolveGenerationConfig } from '../../src/generate/index.ts'
import { leastNewTokens, newTokenLimit } from '../../src/generate/config.ts'

test('defaults are transformers\'', () => {
  expect(resolveGenerationConfig()).toEqual({
    minLength: 0, doSample: false, temperature: 1, topK: 50, topP: 1, minP: 0, repetitionPenalty: 1, suppressTokens: [], numReturnSequences: 1, eosTokenIds: [], stopStrings: [],
    sequenceBias: [], noRepeatNgramSize: 0, badWordsIds: [], forcedEosTokenIds: [],
  })
  expect(Object.values(generationSchema.shape).every((field) => field.description)).toBe(true)
})

test('options come before the file, the file before the defaults', () => {
  const model = { temperature: 0.6, top_p: 0.9, do_sample: true, eos_token_id: [7, 8], max_new_tokens: 24, use_cache: true, transformers_version: '5.18.0', top_k: null, stop_strings: 'X' }
  expect(resolveGenerationConfig({ temperature: 0.7, topP: undefined }, { model, eosTokenIds: [1] })).toMatchObject({
    temperature: 0.7, topP: 0.9, doSample: true, topK: 50, eosTokenIds: [7, 8], maxNewTokens: 24, stopStrings: ['X'],
  })
  expect(resolveGenerationConfig({ eosTokenId: 3 }, { model }).eosTokenIds).toEqual([3])
  expect(resolveGenerationConfig({ eosTokenId: null }, { model }).eosTokenIds).toEqual([])
  expect(resolveGenerationConfig({}, { eosTokenIds: [1] }).eosTokenIds).toEqual([1])
  expect(resolveGenerationConfig({ maxLength: 30 }, { model }).maxNewTokens).toBeUndefined()
})

test('the controls of generation_config.json', () => {
  const model = { bad_words_ids: [[5], [6, 7]], sequence_bias: [[[5, 6], -2.5]], no_repeat_ngram_size: 3, forced_eos_token_id: 4 }
  expect(resolveGenerationConfig({}, { model })).toMatchObject({ badWordsIds: [[5], [6, 7]], sequenceBias: [[[5, 6], -2.5]], noRepeatNgramSize: 3, forcedEosTokenIds: [4] })
  expect(resolveGenerationConfig({ badWordsIds: [], noRepeatNgramSize: 0, forcedEosTokenId: null }, { model })).toMatchObject({ badWordsIds: [], noRepeatNgramSize: 0, forcedEosTokenIds: [] })
  const none = { bad_words_ids: null, sequence_bias: null, no_repeat_ngram_size: null, forced_eos_token_id: null }
  expect(resolveGenerationConfig({}, { model: none })).toEqual(resolveGenerationConfig())
})

test('the controls as flags', () => {
  const command = addFlags(new Command(), generationSchema).exitOverride()
  command.parse(normaliseArguments(['--bad-words-ids', '[[5], [6, 7]]', '--sequenceBias=[[[5, 6], -2.5], [[7], 1]]', '--no_repeat_ngram_size', '3', '--forced-eos-token-id', '4']), { from: 'user' })
  expect(readOptions(generationSchema, undefined, command.opts())).toMatchObject({ badWordsIds: [[5], [6, 7]], sequenceBias: [[[5, 6], -2.5], [[7], 1]], noRepeatNgramSize: 3, forcedEosTokenId: 4 })
  expect(command.helpInformation()).not.toContain('logits-processor')
})

test('lengths', () => {
  expect(newTokenLimit(resolveGenerationConfig(), 5, 1000)).toBe(20)
  expect(newTokenLimit(resolveGenerationConfig(), 5, 12)).toBe(7)
  expect(newTokenLimit(resolveGenerationConfig({ maxLength: 9 }), 5, 1000)).toBe(4)
  expect(newTokenLimit(resolveGenerationConfig({ maxLength: 9, maxNewTokens: 50 }), 5, 1000)).toBe(50)
  expect(leastNewTokens(resolveGenerationConfig({ minLength: 9 }), 5)).toBe(4)
  expect(leastNewTokens(resolveGenerationConfig({ minLength: 9, minNewTokens: 2 }), 5)).toBe(2)
  expect(leastNewTokens(resolveGenerationConfig({ minLength: 9 }), 50)).toBe(0)
})

test('wrong values are named with their source', () => {
  expect(() => resolveGenerationConfig({}, { model: { temperature: -1 } })).toThrow('generation_config.json: temperature: ')
  expect(() => resolveGenerationConfig({}, { model: { num_beams: 4 } })).toThrow('generation_config.json: numBeams: ')
  expect(() => resolveGenerationConfig({ numBeams: 4 } as object)).toThrow('numBeams: ')
  expect(() => resolveGenerationConfig({ topp: 1 } as object)).toThrow('topp: unknown option; did you mean "topP"?')
  expect(() => resolveGenerationConfig({ stopStrings: '' })).toThrow('stopStrings')
  expect(() => resolveGenerationConfig({ badWordsIds: [[]] })).toThrow('badWordsIds.0: ')
  expect(() => resolveGenerationConfig({ badWordsIds: [5] } as object)).toThrow('badWordsIds.0: ')
  expect(() => resolveGenerationConfig({ sequenceBias: [[[5], -Infinity]] })).toThrow('sequenceBias.0.1: ')
  expect(() => resolveGenerationConfig({ sequenceBias: [[5, 1]] } as object)).toThrow('sequenceBias.0.0: ')
  expect(() => resolveGenerationConfig({ noRepeatNgramSize: 1.5 })).toThrow('noRepeatNgramSize: ')
  expect(() => resolveGenerationConfig({ logitsProcessor: () => undefined } as object)).toThrow('logitsProcessor: unknown option')
})
