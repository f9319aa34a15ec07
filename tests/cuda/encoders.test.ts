// Proves that an encoder computes and trains through the CUDA kernels as on the CPU: full attention, token types, and the head over masked tokens.
import { readFileSync } from 'node:fs'
import { afterEach, expect, test } from 'vitest'
import { AutoModelForMaskedLM, AutoModelForSequenceClassification, classificationLoss } from '../../src/models/index.ts'
import { AdamW } from '../../src/optim/index.ts'
import { backward, scope, type Tensor } from '../../src/tensor/index.ts'
import { distance, folderOf } from '../models/recorded.ts'
import { tested } from './device.ts'

const live: { dispose(): void }[] = []
const keep = <T extends { dispose(): void }>(one: T): T => { live.push(one); return one }
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

interface Recorded { inputIds: number[][], tokenTypeIds?: number[][], labels: number[][], adamwLosses: number[] }
const read = (name: string): unknown => JSON.parse(readFileSync(`${folderOf(name)}/expected.json`, 'utf8'))
const valueOf = (loss: () => Tensor): Promise<number> => scope(() => {
  const result = loss()
  backward(result)
  return result
}).item()

test.each(['bert', 'roberta'])('%s trains on masked tokens as transformers records it', async (name) => {
  const { inputIds, tokenTypeIds, labels, adamwLosses } = read(name) as Recorded
  const model = keep(await AutoModelForMaskedLM.fromPretrained(folderOf(name), { device: tested }))
  expect(model.device).toBe(tested)
  const optimizer = keep(new AdamW(model.namedParameters()))
  for (const expected of adamwLosses.slice(0, 3)) {
    const loss = await valueOf(() => model.forward({ inputIds, labels, ...(tokenTypeIds ? { tokenTypeIds } : {}) }).loss!)
    // The recorded training decays biases and norms too, by 1e-5 a step.
    expect(Math.abs(loss / expected - 1)).toBeLessThan(1e-3)
    await optimizer.step({ learningRate: 1e-3, maxGradNorm: 0 })
  }
})

test.each(['bert-classifier', 'roberta-classifier'])('%s gives the recorded logits and loss', async (name) => {
  const { inputIds, tokenTypeIds, logits, problems } = read(name) as Omit<Recorded, 'labels'> & { logits: number[][], problems: { single_label_classification: { labels: number[], loss: number } } }
  const classifier = keep(await AutoModelForSequenceClassification.fromPretrained(folderOf(name), { device: tested }))
  const batch = { inputIds, ...(tokenTypeIds ? { tokenTypeIds } : {}) }
  expect(distance(await classifier.forward(batch).toArray(), logits.flat())).toBeLessThan(2e-5)
  const { labels, loss } = problems.single_label_classification
  expect(Math.abs(await valueOf(() => classificationLoss(classifier.forward(batch), labels, 'single_label_classification')) / loss - 1)).toBeLessThan(1e-5)
})
