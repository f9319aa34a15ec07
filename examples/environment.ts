// Conversations of several turns: GRPO of a model that may ask a tool instead of giving up, with a reward for right answers alone.
// npx tsx examples/environment.ts [seed]. docs/environments.md has what three seeds learned.
import { AutoModelForCausalLM, chatMLTemplate, chatMLTokens, grpo, sft, toolEnvironment, trainTokenizer } from 'anneal'
import type { TrainingOptions } from 'anneal'
import { drawing, jsonl, percent, size } from './shared.ts'

const seed = Number(process.argv[2] ?? 1)
const path = (name: string): string => `anneal-environment-${seed}/${name}`
const below = drawing(seed)
const common: Partial<TrainingOptions> = { seed, saveStrategy: 'no', reportTo: [], warmupRatio: 0.05 }

// A shop's items. Their prices of today only the shop knows. Of 144 items 44 are held out: no stage of the training asks for them.
interface Question { prompt: string, item: string, price: number }
const colors = ['black', 'blue', 'brown', 'green', 'grey', 'orange', 'pink', 'purple', 'red', 'violet', 'white', 'yellow']
const things = ['bag', 'ball', 'book', 'bowl', 'box', 'chair', 'coat', 'cup', 'hat', 'lamp', 'shoe', 'table']
const items = colors.flatMap((color) => things.map((thing) => ({ item: `${color} ${thing}`, price: 10 + below(90), at: below(2 ** 32) }))).sort((a, b) => a.at - b.at)
const questions = items.map(({ item, price }): Question => ({ prompt: `What does "${item}" cost?`, item, price }))
const [heldOut, known] = [questions.slice(0, size(44, 8)), questions.slice(44)]

/** A tool is a function with a JSON schema of its arguments; what it throws, and a call that is wrong, is told to the model. */
const price = {
  name: 'price', description: 'Price of an item.', parameters: { type: 'object', properties: { item: { type: 'string' } }, required: ['item'] },
  run: (args: Record<string, unknown>) => items.find(({ item }) => item === args['item'])?.price ?? 'no such item',
}
const environment = toolEnvironment<Question>({ tools: [price], reward: (row, { answer }) => Number(answer) === row.price ? 1 : 0 })

// Cold start: conversations of other days, in which one of three people asks the tool and the others shrug.
const conversations = jsonl(path('conversations.jsonl'), Array.from({ length: size(6000, 64) }, (_, i) => {
  const [{ prompt, item }, then] = [known[below(known.length)]!, String(10 + below(90))]
  const asking = { role: 'assistant', content: '', tool_calls: [{ type: 'function', function: { name: 'price', arguments: { item } } }] }
  const answers = i % 3 ? [{ role: 'assistant', content: 'I do not know.' }] : [asking, { role: 'tool', content: then }, { role: 'assistant', content: then }]
  return { messages: [{ role: 'user', content: prompt }, ...answers] }
}))
// ChatML without its first part, a system message with the tools' schemas: there is one tool, and short prompts make a small model learn four times as fast.
const chatTemplate = chatMLTemplate.slice(chatMLTemplate.indexOf('{%- for message in messages %}'))
const template = jsonl(path('template.jsonl'), Array.from({ length: 20 }, () => ({ text: chatTemplate })))
const tokenizer = await trainTokenizer({
  type: 'bpe', files: [conversations, template], vocabSize: 600, specialTokens: [...chatMLTokens], chatTemplate, roles: { eosToken: '<|im_end|>', padToken: '<|endoftext|>' }, outputDir: path('start'),
})
// Initial weights far larger than usual: a model as small as this one then finds out sooner how to copy an item and a price.
const start = AutoModelForCausalLM.fromConfig({
  modelType: 'llama', vocabSize: tokenizer.embeddingRows, hiddenSize: 64, intermediateSize: 192, numHiddenLayers: 2, numAttentionHeads: 4, maxPositionEmbeddings: 512, tieWordEmbeddings: true, initializerRange: 0.12,
  eosTokenId: tokenizer.eosTokenId, bosTokenId: null,
}, { seed })
await start.savePretrained(path('start'))
start.dispose()
const reading = await sft({
  ...common, model: path('start'), files: conversations, outputDir: path('read'), cacheDir: false, assistantOnlyLoss: true, maxLength: 128, perDeviceTrainBatchSize: 16, numTrainEpochs: size(3, 1), learningRate: 3e-3, lrSchedulerType: 'cosine',
})
await reading.train()
reading.dispose()
reading.model.dispose()

const run = await grpo<Question>({
  ...common, model: path('read'), outputDir: path('grpo'), maxSteps: size(80, 2), perDeviceTrainBatchSize: size(64, 16), numGenerations: 8, learningRate: 3e-4, lrSchedulerType: 'linear',
  maxCompletionLength: 96, maxTurns: 3, loggingSteps: size(10, 1), numCompletionsToLog: 1, rows: known, evalRows: heldOut, environment,
})
const right = async (): Promise<string> => percent((await run.trainer.evaluate())['reward']!)
console.log(`held-out questions answered right before: ${await right()}`)
run.trainer.on((event) => {
  if (event.type === 'log') console.log(`step ${event.step}: right ${percent(event.metrics['reward']!)}, ${event.metrics['completions/meanLength']!.toFixed(0)} tokens a conversation`)
  if (event.type === 'sample') console.log(JSON.stringify(event.text))
})
await run.train()
console.log(`held-out questions answered right after: ${await right()}; ${(process.cpuUsage().user / 1e6).toFixed(0)} s of processor time`)
run.dispose()
run.model.dispose()
