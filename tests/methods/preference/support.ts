// What the tests of preference methods share: data with something to prefer, a model folder, and what a run logged.
import { join } from 'node:path'
import type { TrainerEvent } from '../../../src/train/index.ts'
import { makeModel, pairs, writeRows } from '../support.ts'
import { temporaryFolder } from '../../files/helpers.ts'

/** Each prompt with its own completion preferred to that of the next. */
export const preferences = pairs.map(({ prompt, completion }, i) => ({ prompt, chosen: completion, rejected: pairs[(i + 1) % pairs.length]!.completion }))

export const unpaired = preferences.flatMap(({ prompt, chosen, rejected }) => [{ prompt, completion: chosen, label: true }, { prompt, completion: rejected, label: false }])

export const ranked = pairs.slice(0, 10).map(({ prompt, completion }, i) => ({
  prompt, responses: [pairs[(i + 2) % 5]!.completion, completion, ' no.', pairs[(i + 1) % 5]!.completion], scores: [0.3, 1.5, -2, 0.3],
}))

/** Steps that count up; a wrong one repeats a word. */
export const steps = Array.from({ length: 24 }, (_, i) => ({
  prompt: 'What does the cat do?', completions: ['the cat sees the moon.', i % 2 ? 'a dog dog dog dog.' : 'a dog likes some bread.'], labels: [true, i % 2 === 0],
}))

export const base = { evalStrategy: 'no' as const, saveStrategy: 'no' as const, loggingSteps: 1, reportTo: [], maxLength: 60, perDeviceTrainBatchSize: 8, learningRate: 3e-3, device: 'cpu' }

/** A folder with a model, and the data beside it. */
export async function setting(rows: readonly unknown[]): Promise<{ model: string, files: string, outputDir: string }> {
  const folder = temporaryFolder()
  await makeModel(join(folder, 'model'))
  return { model: join(folder, 'model'), files: writeRows(join(folder, 'train.jsonl'), rows), outputDir: join(folder, 'out') }
}

export interface Run { trainer: { on: (listener: (event: TrainerEvent) => void) => () => void }, train: () => Promise<unknown> }

/** Trains to the end; the metrics of each step. */
export async function logOf(run: Run): Promise<Record<string, number>[]> {
  const metrics: Record<string, number>[] = []
  run.trainer.on((event) => { if (event.type === 'log') metrics.push(event.metrics) })
  await run.train()
  return metrics
}
