// Proves that loading a tokenizer of 150,000 tokens leaves the event loop its turns, except for what JSON.parse takes.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { Tokenizer } from '../../src/tokenizers/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { leastOfThree, longestStretch } from '../longestStretch.ts'
import { largeTokenizer } from './largeTokenizer.ts'

test('of loading a large tokenizer, nothing but JSON.parse holds the event loop', async () => {
  const text = JSON.stringify(largeTokenizer(151_643), undefined, 2)
  const folder = temporaryFolder()
  writeFileSync(join(folder, 'tokenizer.json'), text)
  const parse = await leastOfThree(() => longestStretch(async () => { await new Promise(setImmediate); return JSON.parse(text) as unknown }))
  const load = await leastOfThree(() => longestStretch(() => Tokenizer.fromPretrained(folder)))
  process.stdout.write(`longest stretch of loading ${(text.length / 1e6).toFixed(1)} MB of tokenizer: ${load.toFixed(0)} ms, of JSON.parse ${parse.toFixed(0)} ms\n`)
  // Half as much again for a machine that is busier in one of the two; what held it besides was three times the parsing.
  expect(load).toBeLessThan(1.5 * parse + 50)
  const [loaded, made] = [await Tokenizer.fromPretrained(folder), Tokenizer.fromJSON(text)]
  for (const sample of ['The quick brown fox', 'naïve Straße 日本語 <|endoftext|> 12,345']) expect(loaded.encode(sample)).toEqual(made.encode(sample))
  expect([loaded.vocabSize, loaded.embeddingRows]).toEqual([151_644, 151_644])
})
