// Proves that prefix tuning, prompt tuning and P-tuning compute, train, load and generate what PEFT does.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, test } from 'vitest'
import { addAdapter, loadAdapter, setAdapter, withoutAdapters } from '../../src/adapters/index.ts'
import { adapterOf } from '../../src/adapters/adapterSet.ts'
import { generate } from '../../src/generate/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { backward, scope, Tensor, unscoped } from '../../src/tensor/index.ts'
import { distance, folderOf } from '../models/recorded.ts'

interface Case {
  family: string
  options: Record<string, number | boolean>
  state: Record<string, { shape: number[], values: number[] }>
  inputIds: number[][]
  labels: number[][]
  logits: { sequence: number, position: number, values: number[] }[]
  loss: number
  gradients: Record<string, number[]>
  adamwLosses: number[]
  saved: number[]
  loadedLogits: number[]
  prompt: number[]
  greedy: number[]
}

const recordedFolder = (name: string): string => fileURLToPath(new URL(`../recorded/adapters-virtual/${name}`, import.meta.url))
const cases = Object.entries(JSON.parse(readFileSync(recordedFolder('expected.json'), 'utf8')) as Record<string, Case>)
const types = { prefix: 'prefix', projection: 'prefix', prompt: 'prompt', ptuning: 'ptuning' } as const

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

async function base(family: string): Promise<CausalLanguageModel> {
  const model = await AutoModelForCausalLM.fromPretrained(folderOf(family))
  live.push(model)
  return model
}

/** The model with the recorded adapter. */
async function adapted(name: string, { family, options, state }: Case): Promise<CausalLanguageModel> {
  const model = await base(family)
  const camel = Object.fromEntries(Object.entries(options).map(([key, value]) => [key.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase()), value]))
  await addAdapter(model, { type: types[name.split('-')[0] as keyof typeof types], ...camel })
  model.virtualTokens!.loadStateDict(new Map(Object.entries(state).map(([key, { shape, values }]) => {
    const tensor = unscoped(() => Tensor.from(values, shape))
    live.push(tensor)
    return [key, tensor]
  })))
  return model
}

const numbersOf = async (tensor: Tensor): Promise<Float32Array> => await tensor.data() as Float32Array

async function gradientsOf(model: CausalLanguageModel, { inputIds, labels }: Case): Promise<{ loss: number, gradients: Map<string, Float32Array> }> {
  model.zeroGrad()
  const loss = scope(() => {
    const { loss } = model.forward({ inputIds, labels })
    backward(loss!)
    return loss!
  })
  live.push(loss)
  const gradients = new Map<string, Float32Array>()
  for (const [name, parameter] of model.virtualTokens!.namedParameters()) gradients.set(name, await numbersOf(parameter.grad!))
  return { loss: await loss.item(), gradients }
}

describe.each(cases)('%s', (name, recorded) => {
  const { inputIds, family } = recorded

  test('logits, and those of the base with the adapter off', async () => {
    const model = await adapted(name, recorded)
    const logits = await numbersOf(model.forward({ inputIds }).logits!)
    const vocabulary = model.config.vocabSize
    expect(logits.length).toBe(inputIds.flat().length * vocabulary)
    for (const { sequence, position, values } of recorded.logits) {
      const row = inputIds.slice(0, sequence).reduce((sum, one) => sum + one.length, 0) + position
      expect(distance(logits.subarray(row * vocabulary, (row + 1) * vocabulary), values)).toBeLessThan(2e-5)
    }
    const off = await numbersOf(withoutAdapters(model, () => model.forward({ inputIds }).logits!))
    expect(off).toEqual(await numbersOf((await base(family)).forward({ inputIds }).logits!))
  })

  test.each([false, true])('loss and gradients, gradient checkpointing %s', async (checkpointing) => {
    const model = await adapted(name, recorded)
    model.train().gradientCheckpointing = checkpointing
    // The recorded models have no dropout in eval mode; checkpointing needs training mode.
    for (const [, module] of model.namedModules()) if (module !== model) module.training = false
    const { loss, gradients } = await gradientsOf(model, recorded)
    expect(Math.abs(loss / recorded.loss - 1)).toBeLessThan(1e-5)
    expect([...gradients.keys()].sort()).toEqual(Object.keys(recorded.gradients).sort())
    for (const [key, gradient] of gradients) expect(distance(gradient, recorded.gradients[key]!), key).toBeLessThan(1e-4)
    for (const [key, parameter] of model.namedParameters()) if (!key.startsWith('virtualTokens.')) expect(parameter.grad, key).toBeNull()
  })

  test('20 steps of AdamW, and what they end with', async () => {
    const model = await adapted(name, recorded)
    const parameters = [...adapterOf(model, 'default').parameters().values()]
    const states = parameters.map(({ shape }) => [Tensor.zeros(shape), Tensor.zeros(shape)] as const)
    live.push(...states.flat())
    const losses: number[] = []
    for (let step = 1; step <= 20; step++) {
      losses.push((await gradientsOf(model, recorded)).loss)
      parameters.forEach(({ tensor, grad, device }, i) => {
        const [first, second] = states[i]!
        device.kernels.adamw([tensor.handle], [first.handle], [second.handle], [], [grad!.handle], 0, [1e-2], 0.9, 0.999, 1e-8, [0.01], step)
      })
    }
    for (const [i, loss] of losses.entries()) expect(Math.abs(loss / recorded.adamwLosses[i]! - 1), `step ${i}`).toBeLessThan(1e-4)
    using saved = adapterOf(model, 'default').virtualTokens!.snapshot()
    expect(distance(await numbersOf(saved), recorded.saved)).toBeLessThan(1e-3)
  })

  test("PEFT's folder: logits and greedy continuation", async () => {
    const model = await base(family)
    const { warnings } = await loadAdapter(model, recordedFolder(name))
    expect(warnings).toEqual([])
    const { logits } = model.forward({ inputIds: inputIds[0]!, logitsToKeep: 1 })
    expect(distance(await numbersOf(logits!), recorded.loadedLogits)).toBeLessThan(2e-5)
    const { prompt, greedy } = recorded
    const options = { maxNewTokens: greedy.length, doSample: false, eosTokenId: [] }
    // In pieces, in a batch, alone, and several answers to one prompt.
    for (const prefillTokens of [512, 2]) {
      const outputs = await generate(model, null, [prompt, inputIds[0]!.slice(0, 9), prompt.slice(0, 1)], { ...options, prefillTokens })
      expect([...outputs[0]!.tokenIds], `prefill in pieces of ${prefillTokens}`).toEqual(greedy)
    }
    const samples = await generate(model, null, [prompt, prompt, prompt], { ...options, maxBatchSize: 2 })
    for (const { tokenIds } of samples) expect([...tokenIds]).toEqual(greedy)
  })

  test('a sequence gives the same alone, among others, in pieces with a cache', async () => {
    const model = await adapted(name, recorded)
    const together = await numbersOf(model.forward({ inputIds }).logits!)
    const vocabulary = model.config.vocabSize
    let at = 0
    for (const ids of inputIds) {
      const alone = await numbersOf(model.forward({ inputIds: [ids] }).logits!)
      expect(distance(alone, together.subarray(at, at += ids.length * vocabulary))).toBeLessThan(1e-5)
    }
    const positions = inputIds.map((ids) => ids.map((_, t) => t))
    expect(await numbersOf(model.forward({ inputIds, positionIds: positions }).logits!)).toEqual(together)
  })
})

test('two adapters with virtual tokens take turns', async () => {
  const [, recorded] = cases[0]!
  const model = await adapted('prefix', recorded)
  const first = await numbersOf(model.forward({ inputIds: recorded.inputIds }).logits!)
  await addAdapter(model, { type: 'prompt', numVirtualTokens: 2 }, { name: 'other' })
  expect(await numbersOf(model.forward({ inputIds: recorded.inputIds }).logits!)).not.toEqual(first)
  expect(() => { setAdapter(model, ['default', 'other']) }).toThrow('two active adapters have virtual tokens')
  setAdapter(model, 'default')
  expect(await numbersOf(model.forward({ inputIds: recorded.inputIds }).logits!)).toEqual(first)
})
