// Proves that llama.cpp reads our files as we do: it opened these very bytes, cut a text into the same tokens and continued a prompt with the same ones.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { exportGguf, heldOutText } from '../../src/export/index.ts'
import { generate } from '../../src/generate/index.ts'
import { pairs, recordedModel, recordedTokenizer } from './fixtures.ts'
import { temporaryFolder } from './folder.ts'

const folder = temporaryFolder()

interface LlamaCpp { sha256: string, text: number[], prompt: number[], greedy: number[] }
const llamaCpp = JSON.parse(readFileSync(new URL('../recorded/export/llamacpp.json', import.meta.url), 'utf8')) as Record<string, LlamaCpp>

test.each(pairs)('llama.cpp cut the text and continued the prompt as the file of %s with the tokenizer of %s does here', async (family, name) => {
  const tokenizer = recordedTokenizer(name)
  const model = await recordedModel(family, tokenizer)
  const path = join(folder, `${family}-${name}.gguf`)
  await exportGguf(model, tokenizer, path, { type: 'f32' })
  const recorded = llamaCpp[`${family}-${name}`]!
  // The very file that llama.cpp opened; after a change of the format record anew with scripts/check-gguf.js --record.
  expect(createHash('sha256').update(readFileSync(path)).digest('hex')).toBe(recorded.sha256)
  expect(tokenizer.encode(heldOutText, { addSpecialTokens: false, allowSpecial: false })).toEqual(recorded.text)
  const [own] = await generate(model, null, [recorded.prompt], { doSample: false, maxNewTokens: recorded.greedy.length, eosTokenId: [] })
  expect([...own!.tokenIds]).toEqual(recorded.greedy)
  model.dispose()
})
