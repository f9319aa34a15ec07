// Teaches a small Llama from scratch to answer sums: pretrained on answers of which four in five are wrong, then GRPO from a reward that checks them.
// npx tsx examples/grpo-arithmetic.ts [seed]
import { writeFileSync } from 'node:fs'
import { grpo, numericMatch, pretrain, trainTokenizer } from 'anneal'
import { drawing, jsonl, size } from './shared.ts'

const seed = Number(process.argv[2] ?? 1)
const outputDir = `anneal-grpo-${seed}`
const below = drawing(seed)

const largest = 19
const sums = Array.from({ length: (largest + 1) ** 2 }, (_, i) => {
  const [a, b] = [Math.floor(i / (largest + 1)), i % (largest + 1)]
  return { prompt: `${a}+${b}=`, answer: a + b }
})
const order = sums.map((sum) => ({ sum, at: below(2 ** 32) })).sort((a, b) => a.at - b.at).map(({ sum }) => sum)
const [heldOut, questions] = [order.slice(0, size(200, 20)), order.slice(200)]

// "3+4:" is always followed by the sum, "3+4=" one time in five, else by any number: the model can add, but "=" does not yet ask it to.
const lines = Array.from({ length: size(60, 2) }, () => order.flatMap(({ prompt, answer }) => [prompt.replace('=', ':') + String(answer), prompt + String(below(5) === 0 ? answer : below(2 * largest + 1))])).flat()
const text = jsonl(`${outputDir}/sums.jsonl`, lines.map((line) => ({ text: line })))
await trainTokenizer({ type: 'bpe', files: [text], vocabSize: 257, specialTokens: ['<|endoftext|>'], roles: { eosToken: '<|endoftext|>', padToken: '<|endoftext|>' }, outputDir: `${outputDir}/tokenizer` })

const first = await pretrain({
  tokenizer: `${outputDir}/tokenizer`, files: text, cacheDir: false, outputDir: `${outputDir}/pretrained`, seed, reportTo: [],
  modelConfig: { modelType: 'llama', hiddenSize: 64, intermediateSize: 176, numHiddenLayers: 2, numAttentionHeads: 4, tieWordEmbeddings: true },
  maxLength: 64, perDeviceTrainBatchSize: 16, numTrainEpochs: size(8, 1), learningRate: 3e-3, lrSchedulerType: 'cosine', warmupRatio: 0.05, saveStrategy: 'no',
})
await first.train()
first.dispose()

const run = await grpo<typeof sums[number]>({
  model: `${outputDir}/pretrained`, outputDir: `${outputDir}/grpo`, seed, maxSteps: size(100, 2), learningRate: 3e-4, lrSchedulerType: 'constant', perDeviceTrainBatchSize: size(256, 32), numGenerations: 16,
  maxCompletionLength: 4, evalStrategy: 'steps', evalSteps: size(20, 1), saveStrategy: 'no',
  rows: questions, evalRows: heldOut, rewards: [numericMatch()],
})
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
