// Proves that a model with a quantised head, tied to its embeddings or not, computes, generates and trains through the CUDA kernels as on the CPU.
import { afterEach, expect, test } from 'vitest'
import { addAdapter, mergeAndUnload } from '../../src/adapters/index.ts'
import { GenerationEngine, resolveGenerationConfig } from '../../src/generate/index.ts'
import { AutoModelForCausalLM, quantizedLayers, type CausalLanguageModel, type QuantizeOption } from '../../src/models/index.ts'
import type { QuantizedLinear } from '../../src/nn/index.ts'
import { dequantize, quantizedEmbedding } from '../../src/ops/index.ts'
import { cpu, setDefaultDevice, Tensor, type Device } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { folderOf } from '../models/recorded.ts'
import { lossesOf, relative, rows, runToEnd, tinyTrainer } from '../train/support.ts'
import { tested } from './device.ts'

const live: { dispose(): void }[] = []
const kept = <T extends { dispose(): void }>(one: T): T => { live.push(one); return one }
const before = setDefaultDevice(cpu)
afterEach(() => {
  setDefaultDevice(before)
  for (const one of live.splice(0)) one.dispose()
})

const headOf = (model: CausalLanguageModel): QuantizedLinear => quantizedLayers(model).get('lm_head')!
const inputIds = [[5, 9, 30, 77, 100], [12, 14, 3]]

async function load(device: Device, family: string, quantize: QuantizeOption, dtype: 'float32' | 'bfloat16' = 'float32'): Promise<CausalLanguageModel> {
  setDefaultDevice(device)
  return kept(await AutoModelForCausalLM.fromPretrained(folderOf(family), { quantize, dtype, device }))
}

test.each([['llama3', { format: 'nf4', head: 'int8' }], ['gpt2', { format: 'int8', head: 'int4', headBlock: 8 }], ['llama2', { format: 'nf4', head: 'nf4', headBlock: 32 }]] as const)('%s %o', async (family, quantize) => {
  for (const [dtype, tolerance] of [['float32', 1e-5], ['bfloat16', 3e-2]] as const) {
    const [expected, actual] = [await load(cpu, family, quantize, dtype), await load(tested, family, quantize, dtype)]
    const head = headOf(actual)
    expect(await head.weight.codes.data()).toEqual(await headOf(expected).weight.codes.data())
    const ids = [159, 0, 7, 7]
    const table = await kept(dequantize(head.weight, dtype)).data()
    const taken = await kept(quantizedEmbedding(head.weight, kept(Tensor.from(ids, [4], { dtype: 'int32', device: tested })), dtype)).data()
    const width = head.inFeatures
    expect([...taken]).toEqual(ids.flatMap((id) => [...table.subarray(id * width, (id + 1) * width)]))
    const logits = actual.forward({ inputIds }).logits!
    expect(logits.dtype).toBe('float32')
    expect(relative(await logits.toArray(), await expected.forward({ inputIds }).logits!.toArray())).toBeLessThan(tolerance)
    const [own, other] = [actual.logprobs({ inputIds }), expected.logprobs({ inputIds })]
    expect(relative(await own.logprob.toArray(), await other.logprob.toArray())).toBeLessThan(tolerance)
    expect(relative(await own.entropy.toArray(), await other.entropy.toArray())).toBeLessThan(tolerance)
  }
})

test('generates', async () => {
  const answer = async (device: Device): Promise<number[]> => {
    const engine = new GenerationEngine(await load(device, 'llama3', { format: 'nf4', head: 'int8' }), { slots: 32 })
    const config = { ...resolveGenerationConfig({ maxNewTokens: 8, temperature: 0 }, {}), eosTokenIds: [] }
    const { tokenIds } = await engine.submit({ promptIds: Int32Array.from([5, 9, 30]), config, seed: 0 })
    return [...tokenIds]
  }
  expect(await answer(tested)).toEqual(await answer(cpu))
})

test('QLoRA trains over it, and is merged', async () => {
  const train = async (device: Device) => {
    const model = await load(device, 'llama3', { format: 'nf4', head: 'int8' })
    await addAdapter(model, { type: 'lora', targetModules: 'all-linear', r: 4 })
    const trainer = kept(tinyTrainer({ model, outputDir: temporaryFolder(), rows: rows(8), maxSteps: 4, bf16: false, adamEpsilon: 1e-3, gradientCheckpointing: true, optim: 'adamw_8bit' }))
    const losses = lossesOf(await runToEnd(trainer))
    const beside = await model.forward({ inputIds }).logits!.toArray()
    mergeAndUnload(model, { quantized: 'dequantize' })
    return { losses, beside, merged: await model.forward({ inputIds }).logits!.toArray() }
  }
  const [expected, actual] = [await train(cpu), await train(tested)]
  expect(actual.losses.length).toBe(4)
  expect(expected.losses.at(-1)).toBeLessThan(expected.losses[0]!)
  expect(relative(actual.losses, expected.losses)).toBeLessThan(1e-5)
  expect(relative(actual.beside, expected.beside)).toBeLessThan(1e-3)
  expect(relative(actual.merged, expected.merged)).toBeLessThan(1e-3)
})
