// Teaches a small Llama from scratch to answer sums: pretrained on answers of which four in five are wrong, then GRPO from a reward that checks them.
// npx tsx examples/grpo-arithmetic.ts [seed]
import { mkdirSync, writeFileSync } from 'node:fs'
import { grpo, numericMatch, pretrain, trainTokenizer } from 'anneal'

const seed = Number(process.argv[2] ?? 1)
const outputDir = `anneal-grpo-${seed}`
mkdirSync(outputDir, { recursive: true })
/** mulberry32: the same numbers for the same seed. */
let state = seed
function uniform(): number {
  state = (state + 0x6d2b79f5) | 0
  let t = Math.imul(state ^ (state >>> 15), 1 | state)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
}
const below = (n: number): number => Math.floor(uniform() * n)

const largest = 19
const sums = Array.from({ length: (largest + 1) ** 2 }, (_, i) => {
  const [a, b] = [Math.floor(i / (largest + 1)), i % (largest + 1)]
  return { prompt: `${a}+${b}=`, answer: a + b }
})
const order = sums.map((sum) => ({ sum, at: uniform() })).sort((a, b) => a.at - b.at).map(({ sum }) => sum)
const [heldOut, questions] = [order.slice(0, 200), order.slice(200)]

// "3+4:" is always followed by the sum, "3+4=" one time in five, else by any number: the model can add, but "=" does not yet ask it to.
const lines = Array.from({ length: 60 }, () => order.flatMap(({ prompt, answer }) => [prompt.replace('=', ':') + String(answer), prompt + String(below(5) === 0 ? answer : below(2 * largest + 1))])).flat()
const text = `${outputDir}/sums.jsonl`
writeFileSync(text, lines.map((line) => JSON.stringify({ text: line })).join('\n'))
await trainTokenizer({ type: 'bpe', files: [text], vocabSize: 257, specialTokens: ['<|endoftext|>'], roles: { eosToken: '<|endoftext|>', padToken: '<|endoftext|>' }, outputDir: `${outputDir}/tokenizer` })

const first = await pretrain({
  tokenizer: `${outputDir}/tokenizer`, files: text, cacheDir: false, outputDir: `${outputDir}/pretrained`, seed, reportTo: [],
  modelConfig: { modelType: 'llama', hiddenSize: 64, intermediateSize: 176, numHiddenLayers: 2, numAttentionHeads: 4, tieWordEmbeddings: true },
  maxLength: 64, perDeviceTrainBatchSize: 16, numTrainEpochs: 8, learningRate: 3e-3, lrSchedulerType: 'cosine', warmupRatio: 0.05, saveStrategy: 'no',
})
await first.train()
first.dispose()

const run = await grpo<typeof sums[number]>({
  model: `${outputDir}/pretrained`, outputDir: `${outputDir}/grpo`, seed, maxSteps: 100, learningRate: 3e-4, lrSchedulerType: 'constant', perDeviceTrainBatchSize: 256, numGenerations: 16,
  generationBatchSize: 256, maxCompletionLength: 4, evalStrategy: 'steps', evalSteps: 20, saveStrategy: 'no',
}, { rows: questions, evalRows: heldOut, rewards: [numericMatch()] })
const before = (await run.trainer.evaluate())['reward']!
console.log(`held-out accuracy before: ${(100 * before).toFixed(0)} %`)
run.trainer.on((event) => {
  if (event.type === 'evaluate') console.log(`step ${event.step}: held-out accuracy ${(100 * event.metrics['reward']!).toFixed(0)} %`)
})
await run.train()
const after = (await run.trainer.evaluate())['reward']!
console.log(`held-out accuracy after: ${(100 * after).toFixed(0)} %`)
writeFileSync(`${outputDir}/result.json`, JSON.stringify({ before, after }))
run.dispose()
