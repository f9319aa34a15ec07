// Teaches a small Llama from scratch to write kind reviews: pretrained on as many kind as unkind ones, a reward model from pairs, then PPO with that
// reward model. npx tsx examples/ppo.ts [seed]
// With seed 1, in 21 s on two cores: the reward model is right about 100 % of held-out pairs; after held-out openings 52 % of the words were kind,
// then 98 %. With seed 2 these are 100 %, 50 % and 86 %.
import { writeFileSync } from 'node:fs'
import { AutoModelForCausalLM, generate, ppo, pretrain, reward, Tokenizer, trainTokenizer } from 'anneal'
import { drawing, jsonl, size } from './shared.ts'

const seed = Number(process.argv[2] ?? 1)
const outputDir = `anneal-ppo-${seed}`
const below = drawing(seed)
const one = <T>(list: readonly T[]): T => list[below(list.length)]!

const kind = ['good', 'warm', 'funny', 'bright', 'clever', 'lovely', 'gentle', 'superb']
const unkind = ['bad', 'cold', 'boring', 'dull', 'stupid', 'ugly', 'harsh', 'awful']
const things = ['film', 'book', 'song', 'play', 'show', 'meal', 'hotel', 'game']
const openings = ['the', 'this', 'that', 'our', 'her', 'his'].flatMap((word) => things.map((thing) => `${word} ${thing} was`))
const [trained, heldOut] = [openings.slice(0, 32), openings.slice(32)]
const review = (words: readonly string[]): string => ` ${one(words)}, ${one(words)} and ${one(words)}.`

// Kindness is a matter of chance for the pretrained model, word by word.
const texts = jsonl(`${outputDir}/reviews.jsonl`, Array.from({ length: size(8000, 200) }, () => ({ text: one(openings) + review([...kind, ...unkind]) })))
await trainTokenizer({ type: 'bpe', files: [texts], vocabSize: 400, specialTokens: ['<|endoftext|>'], roles: { eosToken: '<|endoftext|>', padToken: '<|endoftext|>' }, outputDir: `${outputDir}/tokenizer` })
const first = await pretrain({
  tokenizer: `${outputDir}/tokenizer`, files: texts, cacheDir: false, outputDir: `${outputDir}/pretrained`, seed, reportTo: [],
  modelConfig: { modelType: 'llama', hiddenSize: 64, intermediateSize: 176, numHiddenLayers: 2, numAttentionHeads: 4, tieWordEmbeddings: true },
  maxLength: 64, perDeviceTrainBatchSize: 16, numTrainEpochs: 2, learningRate: 3e-3, lrSchedulerType: 'cosine', warmupRatio: 0.05, saveStrategy: 'no',
})
await first.train()
first.dispose()
first.model.dispose()

// People prefer a review with more kind words; the reward model sees pairs of reviews only, never the lists.
const kindness = (text: string): number => (text.match(/\w+/g) ?? []).reduce((sum, word) => sum + (kind.includes(word) ? 1 : unkind.includes(word) ? -1 : 0), 0)
const pairs = Array.from({ length: size(1500, 60) }, () => {
  const [a, b] = [review([...kind, ...unkind]), review([...kind, ...unkind])]
  return kindness(a) > kindness(b) ? { prompt: one(trained), chosen: a, rejected: b } : kindness(a) < kindness(b) ? { prompt: one(trained), chosen: b, rejected: a } : []
}).flat()
const judge = await reward({
  model: `${outputDir}/pretrained`, files: jsonl(`${outputDir}/pairs.jsonl`, pairs), evalSplit: size(100, 10), outputDir: `${outputDir}/reward`, seed, reportTo: [], saveStrategy: 'no', evalStrategy: 'no',
  perDeviceTrainBatchSize: 32, numTrainEpochs: 3, learningRate: 1e-3, maxLength: 64,
})
await judge.train()
const accuracy = (await judge.trainer.evaluate())['accuracy']!
console.log(`the reward model is right about ${(100 * accuracy).toFixed(0)} % of held-out pairs`)
judge.dispose()
judge.model.dispose()

/** The share of kind words among the kind and unkind ones that a model writes after held-out openings. */
async function kindShare(folder: string): Promise<number> {
  const [model, tokenizer] = [await AutoModelForCausalLM.fromPretrained(folder), await Tokenizer.fromPretrained(folder)]
  const answers = await generate(model, tokenizer, heldOut, { numReturnSequences: 16, doSample: true, maxNewTokens: 16, seed: 7 })
  model.dispose()
  console.log(`${folder}: ${answers.slice(0, 3).map(({ text }) => JSON.stringify(text)).join(' ')}`)
  const words = answers.flatMap(({ text }) => text.match(/\w+/g) ?? []).filter((word) => kind.includes(word) || unkind.includes(word))
  return words.filter((word) => kind.includes(word)).length / words.length
}

const before = await kindShare(`${outputDir}/pretrained`)
console.log(`kind words before: ${(100 * before).toFixed(0)} %`)
const run = await ppo({
  model: `${outputDir}/pretrained`, rewardModel: `${outputDir}/reward`, rows: trained.map((prompt) => ({ prompt })), outputDir: `${outputDir}/ppo`, seed, reportTo: [], saveStrategy: 'no',
  maxSteps: size(160, 2), perDeviceTrainBatchSize: 32, learningRate: 3e-4, lrSchedulerType: 'constant', temperature: 1, responseLength: 16, missingEosPenalty: 1, klCoef: 0.05, loggingSteps: size(20, 1),
})
run.trainer.on((event) => {
  if (event.type === 'log') console.log(`step ${event.step}: reward ${event.metrics['reward']!.toFixed(2)}, KL ${event.metrics['kl']!.toFixed(2)} nats`)
})
await run.train()
run.dispose()
run.model.dispose()
const after = await kindShare(`${outputDir}/ppo`)
console.log(`kind words after: ${(100 * after).toFixed(0)} %`)
writeFileSync(`${outputDir}/result.json`, JSON.stringify({ accuracy, before, after }))
