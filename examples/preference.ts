// Learns from what is liked in three ways, side by side: KTO from single answers with a verdict, ORPO from pairs without a reference model, SimPO from
// pairs by their mean log-probability. Runs after the quickstart, whose model is right about three questions in five: npx tsx examples/preference.ts
import { cpo, kto, orpo } from 'anneal'
import type { TrainingOptions } from 'anneal'
import { jsonl, percent, questions, rightAnswers, size } from './shared.ts'

const outputDir = 'anneal-preference'
const train = questions('anneal-quickstart/instructions.jsonl').slice(0, size(1600, 32))
const heldOut = questions('anneal-quickstart/held-out.jsonl').slice(0, size(100, 10))
const says = (content: string): object[] => [{ role: 'assistant', content }]

// Pairs: of two answers to a prompt, which is better.
const pairs = jsonl(`${outputDir}/pairs.jsonl`, train.map(({ prompt, answer, wrong }) => ({ prompt, chosen: says(answer), rejected: says(wrong[0]!) })))
// Ratings: single answers, each liked or not, as users give them with a thumb.
const ratings = jsonl(`${outputDir}/ratings.jsonl`, train.map(({ prompt, answer, wrong }, i) => ({ prompt, completion: says(i % 2 ? answer : wrong[0]!), label: i % 2 === 1 })))

const model = 'anneal-quickstart/tuned'
const common: Partial<TrainingOptions> = { perDeviceTrainBatchSize: 16, numTrainEpochs: 1, lrSchedulerType: 'cosine', warmupRatio: 0.1, saveStrategy: 'no', reportTo: [] }
const methods = {
  KTO: () => kto({ ...common, model, files: ratings, outputDir: `${outputDir}/kto`, beta: 0.1, learningRate: 1e-4 }),
  ORPO: () => orpo({ ...common, model, files: pairs, outputDir: `${outputDir}/orpo`, beta: 0.5, nllScope: 'completion', learningRate: 2e-4 }),
  SimPO: () => cpo({ ...common, model, files: pairs, outputDir: `${outputDir}/simpo`, lossType: 'simpo', beta: 2, simpoGamma: 0.5, learningRate: 1e-4 }),
}
for (const [name, prepare] of Object.entries(methods)) {
  const run = await prepare()
  const before = await rightAnswers(run.model, run.tokenizer, heldOut)
  const { trainLoss } = await run.train()
  const after = await rightAnswers(run.model, run.tokenizer, heldOut)
  console.log(`${name.padEnd(5)} loss ${trainLoss.toFixed(3)}, right answers ${percent(before)} → ${percent(after)}`)
  run.dispose()
  run.model.dispose()
}
