// Proves that LoRA on BERT's classifier computes, trains and is kept as PEFT has it, and that reward models and masked language models take it.
import { mkdtemp, readFile } from 'node:fs/promises'
import { readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test } from 'vitest'
import { addAdapter, loadAdapter, mergeAndUnload, saveAdapter } from '../../src/adapters/index.ts'
import { AutoModelForMaskedLM, AutoModelForSequenceClassification, classificationLoss, type Classifier } from '../../src/models/index.ts'
import { AdamW } from '../../src/optim/index.ts'
import { backward, scope } from '../../src/tensor/index.ts'
import { distance, folderOf } from '../models/recorded.ts'

const folder = fileURLToPath(new URL('../recorded/adapters-encoders/lora-bert', import.meta.url))
const recorded = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8')) as {
  inputIds: number[][], labels: number[], logits: number[][], merged: number[][], loss: number, gradientNorms: Record<string, number>, losses: number[]
}
const { inputIds, labels } = recorded

const live: { dispose(): void }[] = []
const keep = <T extends { dispose(): void }>(one: T): T => { live.push(one); return one }
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

async function adapted(): Promise<Classifier> {
  const classifier = keep(await AutoModelForSequenceClassification.fromPretrained(folderOf('bert-classifier')))
  await loadAdapter(classifier.model, folder, { isTrainable: true })
  return classifier
}

async function lossOf(classifier: Classifier): Promise<number> {
  const loss = scope(() => {
    const result = classificationLoss(classifier.forward({ inputIds }), labels, 'single_label_classification')
    backward(result)
    return result
  })
  return await loss.item()
}

test('logits, before and after it is merged', async () => {
  const classifier = await adapted()
  expect(distance(await classifier.forward({ inputIds }).toArray(), recorded.logits.flat())).toBeLessThan(2e-5)
  mergeAndUnload(classifier.model)
  expect(distance(await classifier.forward({ inputIds }).toArray(), recorded.merged.flat())).toBeLessThan(5e-5)
})

test('loss, gradients and 20 steps', async () => {
  const classifier = await adapted()
  const optimizer = keep(new AdamW(classifier.model.namedParameters()))
  for (const [i, expected] of recorded.losses.entries()) {
    const loss = await lossOf(classifier)
    expect(Math.abs(loss / expected - 1), `step ${i}`).toBeLessThan(2e-3)
    if (i === 0) {
      expect(Math.abs(loss / recorded.loss - 1)).toBeLessThan(1e-5)
      const trained = [...classifier.model.namedParameters()].filter(([, { requiresGrad }]) => requiresGrad)
      const norms = (await Promise.all(trained.map(async ([, parameter]) => Math.hypot(...await parameter.grad!.toArray())))).sort((a, b) => a - b)
      const expectedNorms = Object.values(recorded.gradientNorms).sort((a, b) => a - b)
      expect(norms).toHaveLength(expectedNorms.length)
      norms.forEach((norm, j) => { expect(Math.abs(norm / expectedNorms[j]! - 1)).toBeLessThan(1e-4) })
    }
    await optimizer.step({ learningRate: 1e-2, maxGradNorm: 0 })
  }
})

test('saved again, the weights are the same bytes and the config says the same', async () => {
  const classifier = await adapted()
  const again = await mkdtemp(join(tmpdir(), 'anneal-adapter-'))
  await saveAdapter(classifier.model, again)
  const config = async (of: string): Promise<Record<string, unknown>> => JSON.parse(await readFile(join(of, 'adapter_config.json'), 'utf8')) as Record<string, unknown>
  const [mine, theirs] = [await config(again), await config(folder)]
  for (const key of ['task_type', 'peft_type', 'r', 'lora_alpha', 'target_modules', 'modules_to_save', 'fan_in_fan_out']) expect([mine[key]].flat().sort(), key).toEqual([theirs[key]].flat().sort())
  const loaded = keep(await AutoModelForSequenceClassification.fromPretrained(folderOf('bert-classifier')))
  await loadAdapter(loaded.model, again)
  expect(await loaded.forward({ inputIds }).toArray()).toEqual(await classifier.forward({ inputIds }).toArray())
})

test('"all-linear" leaves the output layer of a masked language model alone; virtual tokens are refused', async () => {
  const model = keep(await AutoModelForMaskedLM.fromPretrained(folderOf('bert')))
  await addAdapter(model, { type: 'lora', targetModules: 'all-linear', r: 2 })
  const adaptedLayers = [...model.namedModules()].map(([name]) => name).filter((name) => name.endsWith('.adapters.default'))
  expect(adaptedLayers).toHaveLength(2 * 6 + 1)
  expect(adaptedLayers.some((name) => name.includes('decoder'))).toBe(false)
  const other = keep(await AutoModelForMaskedLM.fromPretrained(folderOf('bert')))
  await expect(addAdapter(other, { type: 'prefix', numVirtualTokens: 2 })).rejects.toThrow('prefix needs a causal language model')
})
