// Proves that ids and text equal those of Hugging Face's tokenizers: recorded from Python, and live against the native package.
import { Tokenizer as NativeTokenizer } from 'tokenizers'
import { describe, expect, it } from 'vitest'
import { Tokenizer } from '../../src/tokenizers/index.ts'
import { recorded, recordedNames, texts, tokenizerJSON, variedTexts } from './recorded.ts'

describe.each(recordedNames)('%s', (name) => {
  const json = tokenizerJSON(name)
  const tokenizer = Tokenizer.fromJSON(json)

  it('gives the ids that Python gives', () => {
    expect(texts.map((text) => tokenizer.encode(text))).toEqual(recorded[name].ids)
    expect(tokenizer.encodeBatch(texts, { addSpecialTokens: false })).toEqual(recorded[name].plain)
    expect(tokenizer.encodePair('first text', 'second')).toEqual({ inputIds: recorded[name].pair, tokenTypeIds: recorded[name].pairTypes })
  })

  it('decodes to the text that Python gives', () => {
    const decoded = recorded[name].ids.map((ids) => tokenizer.decode(ids, { skipSpecialTokens: true }))
    expect(decoded).toEqual(recorded[name].decoded)
  })

  it('agrees with the native tokenizers on varied text', async () => {
    const native = NativeTokenizer.fromString(json)
    expect(tokenizer.vocabSize).toBe(native.getVocabSize())
    for (const text of variedTexts()) {
      const ids = (await native.encode(text)).getIds()
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids)
      const decoded = await native.decode(ids, false)
      expect(tokenizer.decode(ids)).toBe(decoded)
      const stream = tokenizer.decodeStream()
      expect(ids.map((id) => stream.push(id)).join('') + stream.end()).toBe(decoded)
    }
  })

  it('saves the bytes it read', () => {
    expect(tokenizer.toJSON()).toBe(json)
  })

  it('gives the same ids after tokens were added and it was written anew', () => {
    const changed = Tokenizer.fromJSON(json)
    expect(changed.addTokens(['<new>', { content: '<|new|>', special: true }])).toBe(2)
    const again = Tokenizer.fromJSON(changed.toJSON())
    const native = NativeTokenizer.fromString(changed.toJSON())
    expect(again.tokenToId('<|new|>')).toBe(native.tokenToId('<|new|>'))
    expect(again.vocabSize).toBe(native.getVocabSize())
    for (const text of texts) expect(again.encode(`${text}<new> <|new|>`)).toEqual(changed.encode(`${text}<new> <|new|>`))
  })

  it('writes a changed file in the layout of Hugging Face', () => {
    const changed = Tokenizer.fromJSON(json)
    const added = changed.addedTokens[0]!
    changed.addTokens([added])
    expect(changed.toJSON()).toBe(json)
  })
})
