// Proves that adapters saved by PEFT compute here what they compute there: logits, loss, gradients, 20 steps of training, and after merging.
import { mkdtemp, readFile } from 'node:fs/promises'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { hasAdapters, loadAdapter, mergeAndUnload, saveAdapter, withoutAdapters } from '../../src/adapters/index.ts'
import { openSafetensors, readTensorBytes } from '../../src/files/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { AdamW } from '../../src/optim/index.ts'
import { backward, scope } from '../../src/tensor/index.ts'
import { distance } from '../models/recorded.ts'

interface Place { sequence: number, position: number, values: number[] }
interface Recorded { base: string, inputIds: number[][], labels: number[][], logits: Place[], merged: Place[], loss: number, gradientNorms: Record<string, number>, losses: number[] }

const root = join(import.meta.dirname, '../recorded/adapters')
const cases = [root, join(root, '../adapters-partial')].flatMap((folder) => readdirSync(folder).map((name) => [name, join(folder, name)] as const))
  .filter(([, folder]) => existsSync(join(folder, 'expected.json')))
  .map(([name, folder]) => [name, folder, JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8')) as Recorded] as const)

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

async function baseModel(base: string): Promise<CausalLanguageModel> {
  const model = await AutoModelForCausalLM.fromPretrained(join(root, '../models', base))
  live.push(model)
  return model
}

async function adapted({ base }: Recorded, folder: string, isTrainable = true): Promise<CausalLanguageModel> {
  const model = await baseModel(base)
  await loadAdapter(model, folder, { isTrainable })
  return model
}

async function largestDistance(model: CausalLanguageModel, inputIds: number[][], places: readonly Place[]): Promise<number> {
  const { logits } = model.forward({ inputIds })
  const values = await logits!.data() as Float32Array
  const { vocabSize } = model.config
  const starts = inputIds.map((_, i) => inputIds.slice(0, i).reduce((sum, one) => sum + one.length, 0))
  return Math.max(...places.map(({ sequence, position, values: expected }) => {
    const row = starts[sequence]! + position
    return distance(values.subarray(row * vocabSize, (row + 1) * vocabSize), expected)
  }))
}

function lossWithGradients(model: CausalLanguageModel, { inputIds, labels }: Recorded): Promise<number> {
  const pending: Promise<number>[] = []
  scope(() => {
    const { loss } = model.forward({ inputIds, labels })
    pending.push(loss!.item())
    backward(loss!)
  })
  return pending[0]!
}

// PiSSA's start comes from another iteration than PEFT's full decomposition.
const tolerance = (name: string): number => (name === 'pissa' ? 1e-4 : 2e-5)

describe.each(cases)('%s', (name, folder, recorded) => {
  const { inputIds } = recorded

  test('logits, and those of the base with the adapter off', async () => {
    const model = await adapted(recorded, folder)
    expect(await largestDistance(model, inputIds, recorded.logits)).toBeLessThan(tolerance(name))
    if (name === 'pissa') return
    const plain = await baseModel(recorded.base)
    const [a, b] = await Promise.all([withoutAdapters(model, () => model.forward({ inputIds }).logits!.data()), plain.forward({ inputIds }).logits!.data()])
    expect(a).toEqual(b)
    expect(await largestDistance(model, inputIds, recorded.logits)).toBeLessThan(tolerance(name))
  })

  test('loss and gradients', async () => {
    const model = await adapted(recorded, folder)
    const loss = await lossWithGradients(model, recorded)
    expect(loss).toBeCloseTo(recorded.loss, 4)
    const norms = [...model.namedParameters()].filter(([, parameter]) => parameter.requiresGrad)
      .map(async ([, parameter]) => Math.hypot(...await parameter.grad!.toArray()))
    const [mine, theirs] = [(await Promise.all(norms)).sort((a, b) => a - b), Object.values(recorded.gradientNorms).sort((a, b) => a - b)]
    expect(mine.length).toBe(theirs.length)
    mine.forEach((norm, i) => { expect(Math.abs(norm / theirs[i]! - 1)).toBeLessThan(name === 'pissa' ? 1e-2 : 1e-3) })
  })

  test('20 steps of training', async () => {
    const model = await adapted(recorded, folder)
    const optimizer = new AdamW(model.namedParameters())
    live.push(optimizer)
    for (const expected of recorded.losses) {
      const loss = await lossWithGradients(model, recorded)
      expect(Math.abs(loss / expected - 1)).toBeLessThan(name === 'pissa' ? 1e-2 : 2e-3)
      await optimizer.step({ learningRate: 1e-2, maxGradNorm: 0 })
    }
  })

  test('merged into the weights', async () => {
    const model = await adapted(recorded, folder)
    mergeAndUnload(model)
    expect(hasAdapters(model)).toBe(false)
    expect(await largestDistance(model, inputIds, recorded.merged)).toBeLessThan(Math.max(5e-5, tolerance(name)))
    const again = await mkdtemp(join(tmpdir(), 'anneal-merged-'))
    await model.savePretrained(again)
    const saved = await AutoModelForCausalLM.fromPretrained(again)
    live.push(saved)
    expect(await largestDistance(saved, inputIds, recorded.merged)).toBeLessThan(Math.max(5e-5, tolerance(name)))
  })

  test('saved again, the files say the same', async () => {
    const model = await adapted(recorded, folder)
    const again = await mkdtemp(join(tmpdir(), 'anneal-adapter-'))
    await saveAdapter(model, again)
    const [mine, theirs] = await Promise.all([again, folder].map(async (one) => JSON.parse(await readFile(join(one, 'adapter_config.json'), 'utf8')) as Record<string, unknown>))
    for (const [key, value] of Object.entries(mine!)) {
      const sorted = (list: unknown): unknown => Array.isArray(list) ? [...list as string[]].sort() : list
      if (key !== 'base_model_name_or_path') expect(sorted(value), key).toEqual(sorted(theirs![key]))
    }
    const [a, b] = await Promise.all([again, folder].map((one) => openSafetensors(join(one, 'adapter_model.safetensors'))))
    try {
      const names = [...b!.tensors.keys()].filter((key) => !key.endsWith('embed_tokens.base_layer.weight'))
      expect([...a!.tensors.keys()].sort()).toEqual(names.sort())
      for (const key of names) expect(Buffer.compare(await readTensorBytes(a!, key), await readTensorBytes(b!, key)), key).toBe(0)
    } finally {
      await Promise.all([a!.close(), b!.close()])
    }
  })
})
