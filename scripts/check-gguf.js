// Opens GGUF files with llama.cpp (node-llama-cpp, from the folder this is run in) and compares tokens and greedy continuations with anneal's:
//   mkdir check && cd check && npm install --omit=optional node-llama-cpp @node-llama-cpp/linux-x64
//   node PATH/TO/anneal/scripts/check-gguf.js MODEL.gguf …
// --record FILE writes down what llama.cpp did with each file, as tests/recorded/export/llamacpp.json.
// It is no dependency of anneal: its CUDA and Vulkan builds, hundreds of megabytes, come along by default. Run `npm run build:ts` first.
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { generate, heldOutText, loadGguf } from '../dist/index.js'

const newTokens = 12
const { values: { record }, positionals: files } = parseArgs({ allowPositionals: true, options: { record: { type: 'string' } } })
if (files.length === 0) {
  console.error('usage: node scripts/check-gguf.js MODEL.gguf …')
  process.exit(2)
}

async function llamaCpp() {
  try {
    return await import(pathToFileURL(createRequire(join(process.cwd(), 'package.json')).resolve('node-llama-cpp')).href)
  } catch (error) {
    console.error(`node-llama-cpp cannot be loaded from ${process.cwd()}: ${error.message}\nnpm install --omit=optional node-llama-cpp @node-llama-cpp/linux-x64`)
    process.exit(2)
  }
}

/** Tokens that llama.cpp finds most likely, one after another. */
async function continuation(model, prompt) {
  const context = await model.createContext({ contextSize: prompt.length + newTokens, flashAttention: false })
  const tokens = []
  for await (const token of context.getSequence().evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    tokens.push(token)
    if (tokens.length === newTokens) break
  }
  await context.dispose()
  return tokens
}

const { getLlama, LlamaLogLevel } = await llamaCpp()
const llama = await getLlama({ gpu: false, build: 'never', maxThreads: 1, logLevel: LlamaLogLevel.error })
let failures = 0
const recorded = {}
for (const file of files) {
  const theirs = await llama.loadModel({ modelPath: file, gpuLayers: 0 })
  const { model, tokenizer, metadata } = await loadGguf(file)
  // llama.cpp multiplies quantised weights with activations in 8 bits: other tokens may then be the most likely ones.
  const isQuantised = ![0, 1, 32].includes(metadata.get('general.file_type')?.value)
  const [text, prompt] = [heldOutText, heldOutText.slice(0, 16)]
  // anneal adds BOS itself; llama.cpp's tokenize() does not.
  const expected = tokenizer?.encode(text, { addSpecialTokens: false, allowSpecial: false })
  const got = theirs.tokenize(text, false)
  const sameTokens = expected === undefined ? undefined : expected.join() === got.join()
  // llama.cpp has no sliding window for these architectures.
  const room = Math.min(model.config.maxPositionEmbeddings, ...(model.config.slidingWindows ?? []).filter((window) => window > 0))
  const ids = (tokenizer?.encode(prompt) ?? theirs.tokenize(prompt)).slice(0, Math.max(1, room - newTokens))
  const [own] = await generate(model, null, [ids], { doSample: false, maxNewTokens: Math.min(newTokens, room - ids.length), eosTokenId: [] })
  const other = (await continuation(theirs, ids)).slice(0, own.tokenIds.length)
  recorded[basename(file, '.gguf')] = { sha256: createHash('sha256').update(readFileSync(file)).digest('hex'), text: got, prompt: ids, greedy: other }
  const same = own.tokenIds.findIndex((id, i) => id !== other[i])
  if (sameTokens === false || (same >= 0 && !isQuantised)) failures++
  console.log(`${basename(file)}: text ${sameTokens === undefined ? 'not compared' : sameTokens ? `has the same ${got.length} tokens` : 'HAS OTHER TOKENS'}; `
    + `greedy continuation of ${own.tokenIds.length} tokens ${same < 0 ? 'is the same' : `DIFFERS from token ${same + 1} on`}`)
  model.dispose()
  await theirs.dispose()
}
if (record) writeFileSync(record, `${JSON.stringify(recorded)}\n`)
process.exit(failures > 0 ? 1 : 0)
