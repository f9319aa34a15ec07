// Conversations of several turns: GRPO of a model that may ask a tool instead of guessing, with a reward for right answers alone.
// npx tsx examples/environment.ts. It shows how the parts go together. The model, made from nothing in minutes, is too weak to learn from it: 2 % of
// held-out questions are right before, 0 % after. Begin with a model that calls tools, at least now and then.
import { chatMLTemplate, chatMLTokens, grpo, pretrain, toolEnvironment, trainTokenizer } from 'anneal'
import type { TrainingOptions } from 'anneal'
import { drawing, jsonl, percent, size } from './shared.ts'

const outputDir = 'anneal-environment'
const below = drawing(1)
const shared: Partial<TrainingOptions> = { saveStrategy: 'no', reportTo: [], warmupRatio: 0.05 }

interface Question { prompt: string, a: number, b: number }
const question = (): Question => {
  const [a, b] = [10 + below(30), 10 + below(30)]
  return { prompt: `What is ${a} + ${b}?`, a, b }
}

/** A tool is a function with a JSON schema of its arguments; what it throws, and a call that is wrong, is told to the model. */
const add = {
  name: 'add', description: 'Adds.', parameters: { type: 'object', properties: { a: { type: 'number' }, b: { type: 'number' } }, required: ['a', 'b'] },
  run: ({ a, b }: Record<string, unknown>) => Number(a) + Number(b),
}
const environment = toolEnvironment<Question>({ tools: [add], reward: ({ a, b }, { answer }) => Number(answer) === a + b ? 1 : 0 })

// The model has read conversations in which one of two people guesses. The tools stand in the system message, where the template puts them.
const tools = [{ type: 'function', function: { name: add.name, description: add.description, parameters: add.parameters } }]
const files = jsonl(`${outputDir}/conversations.jsonl`, Array.from({ length: size(2000, 64) }, (_, i) => {
  const { prompt, a, b } = question()
  const asking = { role: 'assistant', content: '', tool_calls: [{ type: 'function', function: { name: 'add', arguments: { a, b } } }] }
  const answers = i % 2 ? [{ role: 'assistant', content: String(20 + below(60)) }] : [asking, { role: 'tool', content: String(a + b) }, { role: 'assistant', content: String(a + b) }]
  return { tools, messages: [{ role: 'user', content: prompt }, ...answers] }
}))
await trainTokenizer({
  type: 'bpe', files: [files], vocabSize: 600, specialTokens: [...chatMLTokens], chatTemplate: chatMLTemplate, roles: { eosToken: '<|im_end|>', padToken: '<|endoftext|>' }, outputDir: `${outputDir}/tokenizer`,
})
const reading = await pretrain({
  ...shared, tokenizer: `${outputDir}/tokenizer`, files, outputDir: `${outputDir}/pretrained`, cacheDir: false, maxLength: 512, perDeviceTrainBatchSize: 4, numTrainEpochs: size(6, 1), learningRate: 3e-3, lrSchedulerType: 'cosine',
  modelConfig: { modelType: 'llama', hiddenSize: 96, intermediateSize: 288, numHiddenLayers: 2, numAttentionHeads: 4, tieWordEmbeddings: true, maxPositionEmbeddings: 640 },
})
await reading.train()
console.log(`read ${reading.data.stats.tokens} tokens of conversations`)
reading.dispose()
reading.model.dispose()

const run = await grpo<Question>({
  ...shared, model: `${outputDir}/pretrained`, outputDir: `${outputDir}/grpo`, maxSteps: size(40, 2), perDeviceTrainBatchSize: size(64, 16), numGenerations: 8, learningRate: 3e-4, lrSchedulerType: 'constant',
  maxCompletionLength: 128, maxTurns: 3, loggingSteps: size(10, 1), numCompletionsToLog: 1,
  rows: Array.from({ length: size(1000, 32) }, question), evalRows: Array.from({ length: size(100, 8) }, question), environment,
})
const right = async (): Promise<string> => percent((await run.trainer.evaluate())['reward']!)
console.log(`held-out questions answered right before: ${await right()}`)
run.trainer.on((event) => {
  if (event.type === 'log') console.log(`step ${event.step}: right ${percent(event.metrics['reward']!)}, ${event.metrics['completions/meanLength']!.toFixed(0)} tokens a conversation`)
  if (event.type === 'sample') console.log(JSON.stringify(event.text))
})
await run.train()
console.log(`held-out questions answered right after: ${await right()}`)
run.dispose()
run.model.dispose()
