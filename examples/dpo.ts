// DPO from the beginning: a small Llama learns to write reviews in which kind words are a matter of chance, then learns from pairs that people prefer them.
// npx tsx examples/dpo.ts. In 40 s on two busy cores: 96 % of held-out pairs are right; after held-out openings 51 % of the words were kind, then 84 %.
import { AutoModelForCausalLM, dpo, generate, pretrain, Tokenizer, trainTokenizer } from 'anneal'
import { drawing, jsonl, percent, size } from './shared.ts'

const out = 'anneal-dpo'
const below = drawing(1)
const one = <T>(list: readonly T[]): T => list[below(list.length)]!

const kind = ['good', 'warm', 'funny', 'bright', 'clever', 'lovely', 'gentle', 'superb']
const unkind = ['bad', 'cold', 'boring', 'dull', 'stupid', 'ugly', 'harsh', 'awful']
const things = ['film', 'book', 'song', 'play', 'show', 'meal', 'hotel', 'game']
const openings = ['the', 'this', 'that', 'our', 'her', 'his'].flatMap((word) => things.map((thing) => `${word} ${thing} was`))
/** No pair begins with one of these. */
const heldOut = openings.slice(32)
const review = (words: readonly string[]): string => ` ${one(words)}, ${one(words)} and ${one(words)}.`

// 1. A model of reviews.
const texts = jsonl(`${out}/reviews.jsonl`, Array.from({ length: size(8000, 200) }, () => ({ text: one(openings) + review([...kind, ...unkind]) })))
await trainTokenizer({ type: 'bpe', files: [texts], vocabSize: 400, specialTokens: ['<|endoftext|>'], roles: { eosToken: '<|endoftext|>', padToken: '<|endoftext|>' }, outputDir: `${out}/tokenizer` })
const first = await pretrain({
  tokenizer: `${out}/tokenizer`, files: texts, cacheDir: false, outputDir: `${out}/pretrained`, reportTo: [], saveStrategy: 'no',
  modelConfig: { modelType: 'llama', hiddenSize: 64, intermediateSize: 176, numHiddenLayers: 2, numAttentionHeads: 4, tieWordEmbeddings: true },
  maxLength: 64, perDeviceTrainBatchSize: 16, numTrainEpochs: 2, learningRate: 3e-3, lrSchedulerType: 'cosine', warmupRatio: 0.05,
})
await first.train()
first.dispose()
first.model.dispose()

// 2. Of two reviews people prefer the one with more kind words.
const kindness = (text: string): number => kind.filter((word) => text.includes(word)).length - unkind.filter((word) => text.includes(word)).length
const pairs = Array.from({ length: size(1500, 32) }, () => {
  const [chosen, rejected] = [review([...kind, ...unkind]), review([...kind, ...unkind])].sort((a, b) => kindness(b) - kindness(a))
  return { prompt: one(openings.slice(0, 32)), chosen, rejected }
}).filter(({ chosen, rejected }) => kindness(chosen!) > kindness(rejected!))
// The second loss, of chosen reviews alone, keeps the text well-formed: DPO by itself only widens the difference, and may make both unlikely.
const run = await dpo({
  model: `${out}/pretrained`, files: jsonl(`${out}/pairs.jsonl`, pairs), evalSplit: size(100, 8), outputDir: `${out}/dpo`, reportTo: [], saveStrategy: 'no',
  lossType: ['sigmoid', 'sft'], lossWeights: [1, 1], beta: 0.2, learningRate: 3e-4, lrSchedulerType: 'cosine', warmupRatio: 0.1, perDeviceTrainBatchSize: 16, numTrainEpochs: size(3, 1), maxLength: 64,
})
await run.train()
console.log(`held-out pairs that the model has right: ${percent((await run.trainer.evaluate())['rewards/accuracies']!)}`)
run.dispose()
run.model.dispose()

// 3. What that bought: reviews that the model writes after openings of which it saw no pair.
async function kindShare(folder: string): Promise<number> {
  const [model, tokenizer] = [await AutoModelForCausalLM.fromPretrained(folder), await Tokenizer.fromPretrained(folder)]
  const reviews = await generate(model, tokenizer, heldOut, { numReturnSequences: 16, doSample: true, maxNewTokens: 16, seed: 7 })
  model.dispose()
  console.log(`${folder}: ${reviews.slice(0, 3).map(({ text }) => JSON.stringify(text)).join(' ')}`)
  const words = reviews.flatMap(({ text }) => text.match(/\w+/g) ?? []).filter((word) => kind.includes(word) || unkind.includes(word))
  return words.filter((word) => kind.includes(word)).length / Math.max(words.length, 1)
}
for (const folder of ['pretrained', 'dpo']) console.log(`kind words: ${percent(await kindShare(`${out}/${folder}`))}`)
