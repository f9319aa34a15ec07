// Learns from what is liked of its own answers in three ways, side by side: KTO from single answers with a verdict, ORPO from pairs without a reference
// model, SimPO from pairs by their mean log-probability. npx tsx examples/preference.ts [seed] [KTO|ORPO|SimPO]. docs/preference.md has what three seeds learned.
import { AutoModelForCausalLM, chatMLTemplate, chatMLTokens, cpo, generate, kto, orpo, sft, Tokenizer, trainTokenizer } from 'anneal'
import type { CausalLanguageModel, TrainingOptions } from 'anneal'
import { drawing, jsonl, percent, size } from './shared.ts'

const [seed, only] = [Number(process.argv[2] ?? 1), process.argv[3]]
const path = (name: string): string => `anneal-preference-${seed}/${name}`
const below = drawing(seed)
const common: Partial<TrainingOptions> = { seed, perDeviceTrainBatchSize: 16, lrSchedulerType: 'cosine', warmupRatio: 0.1, saveStrategy: 'no', reportTo: [] }

// Orders in a shop, to be repeated. Of 144 items 44 are held out: no stage of the training orders them.
interface Order { prompt: { role: string, content: string }[], answer: string, careless: string }
const colors = ['black', 'blue', 'brown', 'green', 'grey', 'orange', 'pink', 'purple', 'red', 'violet', 'white', 'yellow']
const things = ['bag', 'ball', 'book', 'bowl', 'box', 'chair', 'coat', 'cup', 'hat', 'lamp', 'shoe', 'table']
const orders = colors.flatMap((color) => things.map((thing) => ({
  prompt: [{ role: 'user', content: `I would like a ${color} ${thing}.` }], answer: `One ${color} ${thing}, of course.`, careless: `One ${thing}, of course.`, at: below(2 ** 32),
}))).sort((a, b) => a.at - b.at)
const [heldOut, known] = [orders.slice(0, size(44, 8)), orders.slice(44)]
const any = (): Order => known[below(known.length)]!
const says = (content: string): object[] => [{ role: 'assistant', content }]

// 1. A model that has read conversations in which three of five people forget the colour.
const conversations = jsonl(path('conversations.jsonl'), Array.from({ length: size(6000, 64) }, (_, i) => {
  const { prompt, answer, careless } = any()
  return { messages: [...prompt, ...says(i % 5 < 2 ? answer : careless)] }
}))
const tokenizer = await trainTokenizer({
  type: 'bpe', files: [conversations], vocabSize: 500, specialTokens: [...chatMLTokens], chatTemplate: chatMLTemplate, roles: { eosToken: '<|im_end|>', padToken: '<|endoftext|>' }, outputDir: path('start'),
})
const start = AutoModelForCausalLM.fromConfig({
  modelType: 'llama', vocabSize: tokenizer.embeddingRows, hiddenSize: 64, intermediateSize: 192, numHiddenLayers: 2, numAttentionHeads: 4, maxPositionEmbeddings: 128, tieWordEmbeddings: true, initializerRange: 0.12,
  eosTokenId: tokenizer.eosTokenId, bosTokenId: null,
}, { seed })
await start.savePretrained(path('start'))
start.dispose()
const reading = await sft({ ...common, model: path('start'), files: conversations, outputDir: path('read'), cacheDir: false, assistantOnlyLoss: true, numTrainEpochs: size(3, 1), learningRate: 3e-3 })
await reading.train()
reading.dispose()
reading.model.dispose()

/** Answers drawn at random. */
const draw = async (model: CausalLanguageModel, tokenizer: Tokenizer, asked: readonly Order[]): Promise<string[]> =>
  (await generate(model, tokenizer, asked.map(({ prompt }) => prompt), { maxNewTokens: 16, doSample: true, topK: 0, seed })).map(({ text }) => text.trim())

// 2. What the model answers is what people see and judge. Answers that it would never give teach it little, and may spoil others.
const policy = await AutoModelForCausalLM.fromPretrained(path('read'))
const asked = Array.from({ length: size(800, 64) }, any)
const answers = (await draw(policy, await Tokenizer.fromPretrained(path('read')), asked)).map((wrote, i) => ({ ...asked[i]!, wrote })).filter(({ wrote }) => wrote !== '')
policy.dispose()
const wrong = answers.filter(({ answer, wrote }) => wrote !== answer)
console.log(`${wrong.length} of ${answers.length} drawn answers are wrong`)
// Ratings: single answers, each liked or not, as users give them with a thumb.
const ratings = jsonl(path('ratings.jsonl'), answers.map(({ prompt, answer, wrote }) => ({ prompt, completion: says(wrote), label: wrote === answer })))
// Pairs: of two answers to a prompt, which is better.
const pairs = jsonl(path('pairs.jsonl'), wrong.map(({ prompt, answer, wrote }) => ({ prompt, chosen: says(answer), rejected: says(wrote) })))

// 3. Three methods, each from the model as it was.
const model = path('read')
const methods = {
  // A KL is estimated from each batch, so a batch is not small.
  KTO: () => kto({ ...common, model, files: ratings, outputDir: path('kto'), beta: 0.1, learningRate: 1e-4, numTrainEpochs: size(3, 1) }),
  ORPO: () => orpo({ ...common, model, files: pairs, outputDir: path('orpo'), beta: 0.5, nllScope: 'completion', learningRate: 1e-4, numTrainEpochs: size(3, 1) }),
  SimPO: () => cpo({ ...common, model, files: pairs, outputDir: path('simpo'), lossType: 'simpo', beta: 2, simpoGamma: 0.5, learningRate: 1e-4, numTrainEpochs: size(3, 1) }),
}
const questions = Array.from({ length: size(8, 1) }, () => heldOut).flat()
for (const [name, prepare] of Object.entries(methods).filter(([name]) => only === undefined || name === only)) {
  const run = await prepare()
  const right = async (): Promise<string> => percent((await draw(run.model, run.tokenizer, questions)).filter((text, i) => text === questions[i]!.answer).length / questions.length)
  const before = await right()
  const { trainLoss } = await run.train()
  console.log(`${name.padEnd(5)} loss ${trainLoss.toFixed(3)}, right answers ${before} → ${await right()}`)
  run.dispose()
  run.model.dispose()
}
