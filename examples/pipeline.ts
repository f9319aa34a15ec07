// How a reasoning model is made, in miniature: the recipe of DeepSeek-R1 (arXiv 2501.12948) for a small Llama that turns a dial: 7+5-9+3=? is 6.
//   npx tsx examples/pipeline.ts [seed]                         minutes on two cores; what is done is not done again by a second call
//   ANNEAL_EXAMPLE_SIZE=small npx tsx examples/pipeline.ts      the same program in seconds, which teaches nothing
// After each stage it asks questions that no stage has seen, and at the end it prints what each stage bought. docs/grpo.md has three seeds' tables.
// A second argument, `development`, asks other questions instead: to change the recipe by, so that those of the tables go on judging it.
import { existsSync, readFileSync } from 'node:fs'
import {
  AutoModelForCausalLM, bestOfN, chatMLTemplate, chatMLTokens, Classifier, distill, exportModel, generate, grpo, loadGguf, modelReward, numericMatch, pretrain, quantizeFolder, reward, sft, thinkFormat, Tokenizer, trainTokenizer,
} from 'anneal'
import type { BestOfNInput, CausalLanguageModel, TrainingOptions } from 'anneal'
import { dial, drawing, jsonl, percent, size, working } from './shared.ts'
import type { Turns } from './shared.ts'

const seed = Number(process.argv[2] ?? 1)
const path = (name: string): string => `anneal-pipeline-${seed}/${name}`
const below = drawing(seed)
const common: Partial<TrainingOptions> = { seed, saveStrategy: 'no', reportTo: [], lrSchedulerType: 'cosine', warmupRatio: 0.1, adamBeta2: 0.95, perDeviceTrainBatchSize: 16 }
const long = { maxCompletionLength: 32 }

// The same questions are kept from training whatever the seed, so that none that chose the recipe is among those that judge it.
const all = dial(6000, { count: 4, seed: 1 })
const [development, test, questions] = [all.slice(0, 200), all.slice(200, 400), all.slice(400)]
const heldOut = (process.argv[3] === 'development' ? development : test).slice(0, size(200, 10))
const says = (content: string): { role: string, content: string }[] => [{ role: 'assistant', content }]
const right = /<\/think>\s*(\d)\s*$/
const isRight = (text: string, { answer }: Turns): boolean => right.exec(text)?.[1] === answer
const accuracy = numericMatch<Turns>({ extract: right })

const table: Record<string, { right: string, drawn?: string, form?: string, thinks?: string }> = {}

/** Asks a model the held-out questions: for its most likely answers, and for answers drawn at random. Releases the model. */
async function ask(stage: string, model: CausalLanguageModel, tokenizer: Tokenizer): Promise<void> {
  const prompts = heldOut.map(({ prompt }) => prompt)
  const likely = (await generate(model, tokenizer, prompts, { maxNewTokens: 32 })).map(({ text }) => text)
  const drawn = (await generate(model, tokenizer, prompts, { maxNewTokens: 32, doSample: true, topK: 0, seed: 7 })).map(({ text }) => text)
  model.dispose()
  const share = (texts: readonly string[], holds: (text: string, row: Turns) => boolean): string => percent(texts.filter((text, i) => holds(text, heldOut[i]!)).length / heldOut.length)
  table[stage] = {
    right: share(likely, isRight), drawn: share(drawn, isRight), form: share(drawn, (text) => text.startsWith('<think>') && right.test(text)), thinks: share(drawn, (text) => /^<think>\d/.test(text)),
  }
  console.log(`${(process.cpuUsage().user / 1e6).toFixed(0)} s of processor time, ${stage}: ${table[stage].right} right, drawn answers ${table[stage].drawn}; ${JSON.stringify(likely[0])}`)
}
const askFolder = async (stage: string, name: string): Promise<void> => ask(stage, await AutoModelForCausalLM.fromPretrained(path(name)), await Tokenizer.fromPretrained(path(name)))

/** Trains what a method prepares, unless its folder is there, and asks the model. */
async function train(stage: string, name: string, prepare: (outputDir: string) => Promise<{ train: () => Promise<unknown>, dispose: () => void, model: { dispose: () => void } }>): Promise<void> {
  if (!existsSync(path(`${name}/config.json`))) {
    const run = await prepare(path(name))
    await run.train()
    run.dispose()
    run.model.dispose()
  }
  await askFolder(stage, name)
}

/** Draws answers to questions and writes those that are kept; returns them question by question. */
async function draw(name: string, rows: readonly Turns[], options: Omit<BestOfNInput<Turns>, 'output' | 'rows'>): Promise<{ row: Turns, texts: string[] }[]> {
  const output = path(name)
  await bestOfN<Turns>({ ...long, seed, ...options, rows, output })
  const kept = new Map(rows.map((row) => [row.prompt[0]!.content, { row, texts: [] as string[] }]))
  for (const line of readFileSync(output, 'utf8').trim().split('\n')) {
    const { messages: [question, answer] } = JSON.parse(line) as { messages: [{ content: string }, { content: string }] }
    kept.get(question.content)!.texts.push(answer.content)
  }
  return [...kept.values()]
}

// 1. A tokenizer, and a model that reads textbooks: calculations worked out part by part. It has not been asked anything yet.
const one = <T>(list: readonly T[]): T => list[below(list.length)]!
const goesOn = ['\n', '\nTurn by turn:\n', '\nNow we turn the dial and look:\n', '\nBegin at the first number. It goes:\n']
const text = jsonl(path('textbook.jsonl'), Array.from({ length: size(30000, 100) }, () => {
  const row = one(questions)
  return { text: `${one(['', 'Look:\n', 'Here is another one:\n', 'And now\n'])}${row.prompt[0]!.content}${one(goesOn)}${working(row)}` }
}))
const cold = questions.slice(0, size(3200, 32)).map((row, i) => ({ messages: [...row.prompt, ...says(`<think>${i % 3 ? '' : working(row)}</think>${row.answer}`)] }))
const conversations = jsonl(path('cold.jsonl'), cold)
const some = jsonl(path('some.jsonl'), cold.slice(0, 1600))
await trainTokenizer({
  type: 'bpe', files: [text, some], vocabSize: 400, specialTokens: [...chatMLTokens], chatTemplate: chatMLTemplate, roles: { eosToken: '<|im_end|>', padToken: '<|endoftext|>' }, outputDir: path('tokenizer'),
})
await train('pretraining', 'pretrained', (outputDir) => pretrain({
  ...common, tokenizer: path('tokenizer'), files: text, outputDir, cacheDir: false, maxLength: 64, learningRate: 4e-3,
  modelConfig: { modelType: 'llama', hiddenSize: 64, intermediateSize: 192, numHiddenLayers: 2, numAttentionHeads: 4, tieWordEmbeddings: true, maxPositionEmbeddings: 128, initializerRange: 0.12 },
}))
{
  const [model, tokenizer] = [await AutoModelForCausalLM.fromPretrained(path('pretrained')), await Tokenizer.fromPretrained(path('pretrained'))]
  const lines = await generate(model, tokenizer, heldOut.map(({ prompt: [question] }) => question!.content + goesOn[1]!), { maxNewTokens: 16, stopStrings: ['\n'] })
  console.log(`it goes on as a textbook would after ${percent(lines.filter(({ text }, i) => text.trim() === working(heldOut[i]!)).length / heldOut.length)} of new questions`)
  model.dispose()
}

// 2. Cold start: some conversations teach the form, <think>…</think> and the answer. Of three authors one wrote thoughts down.
const tune = (files: string, epochs: number) => (outputDir: string) => sft({ ...common, model: path('pretrained'), files, outputDir, cacheDir: false, assistantOnlyLoss: true, numTrainEpochs: epochs, learningRate: 2e-3 })
await train('cold-start SFT', 'cold', tune(conversations, size(6, 1)))

// 3. A reward model, from pairs of its own answers of which one is right. It is told no rule, and where there is none it can choose among answers.
const answers = await draw('answers.jsonl', questions.slice(0, size(500, 64)), { model: path('cold'), rewards: [accuracy], numGenerations: 8, select: 'threshold', threshold: 0 })
const pairs = answers.flatMap(({ row, texts }) => {
  const [chosen, rejected] = [texts.find((one) => isRight(one, row)) ?? `<think>${working(row)}</think>${row.answer}`, texts.find((one) => one.trim() !== '' && !isRight(one, row))]
  return rejected === undefined ? [] : [{ prompt: row.prompt, chosen: says(chosen), rejected: says(rejected) }]
})
const judge = await reward({ ...common, model: path('cold'), files: jsonl(path('pairs.jsonl'), pairs), evalSplit: 0.1, outputDir: path('judge'), numTrainEpochs: 3, learningRate: 1e-3 })
await judge.train()
console.log(`the reward model knows the better of two answers to ${percent((await judge.trainer.evaluate())['accuracy']!)} of the pairs it has not seen`)
judge.dispose()
judge.model.dispose()
const classifier = await Classifier.fromPretrained(path('judge'))
const best = await draw('best.jsonl', heldOut, { model: path('cold'), rewards: [modelReward(classifier, { tokenizer: await Tokenizer.fromPretrained(path('judge')) })], numGenerations: 8 })
classifier.dispose()
table['best of 8 by a reward model'] = { right: percent(best.filter(({ row, texts: [one] }) => isRight(one ?? '', row)).length / best.length) }
console.log(table['best of 8 by a reward model'])

// 4. GRPO: answers to a question compete, by rules for their form and for the sum. Whether it pays to think is for the model to find out.
const practise = (from: string, maxSteps: number) => (outputDir: string) => grpo<Turns>({
  ...common, ...long, model: path(from), outputDir, maxSteps, learningRate: 3e-4, lrSchedulerType: 'constant_with_warmup', perDeviceTrainBatchSize: size(128, 16), numGenerations: 8,
  rows: questions, rewards: [thinkFormat<Turns>(), accuracy], rewardWeights: [0.2, 1],
})
await train('GRPO', 'practised', practise('cold', size(40, 2)))

// 5. Rejection sampling: the practised model writes better conversations than people did. The pretrained model is tuned anew, on those that are right.
await draw('own.jsonl', questions.slice(0, size(1200, 64)), { model: path('practised'), rewards: [accuracy], numGenerations: 4, select: 'threshold', threshold: size(1, 0) })
await train('rejection-sampled SFT', 'tuned', tune(path('own.jsonl'), size(10, 1)))

// 6. GRPO again.
await train('GRPO again', 'reasoning', practise('tuned', size(20, 2)))

// 7. One layer of the two learns from the whole distributions of the finished model; beside it, the same student from the words alone. One layer turns out to
// be too few: to copy what comes next takes two.
const student = (alpha: number) => (outputDir: string) => distill({
  ...common, teacher: path('reasoning'), initFromTeacher: [1], files: path('own.jsonl'), outputDir, cacheDir: false, assistantOnlyLoss: true, alpha, temperature: 2, numTrainEpochs: size(8, 1), learningRate: 4e-3,
})
await train('student, from words', 'words', student(1))
await train('student, distilled', 'student', student(0))

// 8. The finished model in fewer bits: for anneal and transformers, and for llama.cpp.
for (const format of ['nf4', 'int8'] as const) {
  const { bitsPerWeight } = await quantizeFolder({ model: path('reasoning'), output: path(format), format })
  await askFolder(`${format}, ${bitsPerWeight.toFixed(1)} bits`, format)
}
for (const type of ['q8_0', 'q4_0'] as const) {
  const { output, bitsPerWeight } = await exportModel({ model: path('reasoning'), output: path(`reasoning-${type}.gguf`), type })
  const file = await loadGguf(output)
  await ask(`GGUF ${type}, ${bitsPerWeight.toFixed(1)} bits`, file.model, file.tokenizer!)
}
console.log(`\nOf ${heldOut.length} questions that no stage has seen, answered right by the most likely answer, right when drawn; in the form asked for, and with thoughts, when drawn:`)
console.table(table)
