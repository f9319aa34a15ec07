// Trains three kinds of tokenizers on Markdown, compares what they make of text they have not seen, and uses one: npx tsx examples/tokenizer.ts
import { readFile } from 'node:fs/promises'
import { chatMLTemplate, chatMLTokens, Tokenizer, trainTokenizer } from 'anneal'
import glob from 'fast-glob'
import { size } from './shared.ts'

const outputDir = 'anneal-tokenizers'
const [heldOut, ...files] = (await glob(['*.md', 'docs/*.md', 'node_modules/*/README.md'])).sort().slice(0, size(200, 12)) as [string, ...string[]]
const unseen = await readFile(heldOut, 'utf8')
const vocabSize = size(4096, 512)

for (const type of ['bpe', 'unigram', 'wordpiece'] as const) {
  const begin = performance.now()
  const tokenizer = await trainTokenizer({ type, files, vocabSize, outputDir: `${outputDir}/${type}` })
  const ids = tokenizer.encode(unseen, { addSpecialTokens: false })
  console.log(`${type.padEnd(9)} ${tokenizer.vocabSize} tokens in ${((performance.now() - begin) / 1000).toFixed(1)} s; ${(Buffer.byteLength(unseen) / ids.length).toFixed(2)} bytes of ${heldOut} a token`)
  console.log(' ', tokenizer.encode('Unbelievable tokenizers!', { addSpecialTokens: false }).map((id) => tokenizer.idToToken(id)))
}

// One for conversations: with special tokens, their roles, and a chat template. Hugging Face's libraries read the folder.
await trainTokenizer({
  type: 'bpe', files, vocabSize, specialTokens: [...chatMLTokens, '<tool>'], chatTemplate: chatMLTemplate, roles: { eosToken: '<|im_end|>', padToken: '<|endoftext|>' }, outputDir: `${outputDir}/chat`,
})
const tokenizer = await Tokenizer.fromPretrained(`${outputDir}/chat`)
const messages = [{ role: 'user', content: 'Say <|im_end|>.' }, { role: 'assistant', content: 'I did.' }]
console.log(tokenizer.applyChatTemplate(messages, { tokenize: false }))
// What the assistant says is what assistantOnlyLoss trains.
const { inputIds, assistantMask } = tokenizer.applyChatTemplate(messages, { returnAssistantTokensMask: true })
console.log('trained:', JSON.stringify(tokenizer.decode(Array.from(inputIds).filter((_, i) => assistantMask[i]), { skipSpecialTokens: false })))
console.log('exact:', tokenizer.decode(tokenizer.encode(unseen), { skipSpecialTokens: false }) === unseen)
