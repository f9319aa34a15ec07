// Proves that LoRA, DoRA and QLoRA steps run through the CUDA kernels as they do on the CPU, and that merging does.
import { afterEach, expect, test } from 'vitest'
import { addAdapter, mergeAndUnload, type AdapterInput } from '../../src/adapters/index.ts'
import { quantizeModel } from '../../src/quantization/index.ts'
import { cpu, setDefaultDevice, type Device } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { lossesOf, relative, rows, runToEnd, tinyModel, tinyTrainer, type RunOptions } from '../train/support.ts'
import { tested } from './device.ts'

const live: { dispose(): void }[] = []
const before = setDefaultDevice(cpu)
afterEach(() => {
  setDefaultDevice(before)
  for (const one of live.splice(0)) one.dispose()
})

interface Case { adapter: AdapterInput, quantized?: boolean, options?: Partial<RunOptions>, dtype?: 'float32' | 'bfloat16' }

async function train(device: Device, { adapter, quantized = false, options = {}, dtype = 'float32' }: Case) {
  setDefaultDevice(device)
  const model = tinyModel({ family: 'llama', dtype })
  if (quantized) await quantizeModel(model, { format: 'nf4', block: 32 })
  await addAdapter(model, adapter)
  const trainer = tinyTrainer({ model, outputDir: temporaryFolder(), rows: rows(8), maxSteps: 4, adamEpsilon: 1e-3, bf16: false, ...options })
  live.push(model, trainer)
  const losses = lossesOf(await runToEnd(trainer))
  const inputIds = [[1, 2, 3, 4], [5, 6]]
  const beside = await model.forward({ inputIds }).logits!.toArray()
  mergeAndUnload(model, quantized ? { quantized: 'dequantize' } : {})
  return { losses, beside, merged: await model.forward({ inputIds }).logits!.toArray() }
}

const lora: AdapterInput = { type: 'lora', targetModules: 'all-linear', r: 4 }

test.each<[string, Case, number]>([
  ['LoRA', { adapter: lora }, 1e-5],
  ['LoRA with dropout over bfloat16 weights, recomputing layers', { adapter: { ...lora, loraDropout: 0.2 }, dtype: 'bfloat16', options: { gradientCheckpointing: true } }, 2e-2],
  ['DoRA', { adapter: { ...lora, useDora: true } }, 1e-5],
  ['IA3', { adapter: { type: 'ia3' } }, 1e-5],
  ['QLoRA with 8-bit states', { adapter: { ...lora, r: 16 }, quantized: true, options: { optim: 'adamw_8bit', gradientCheckpointing: true } }, 1e-5],
])('%s', async (_, tried, tolerance) => {
  const expected = await train(cpu, tried)
  const actual = await train(tested, tried)
  expect(actual.losses.length).toBe(4)
  expect(expected.losses.at(-1)).not.toBe(expected.losses[0])
  expect(relative(actual.losses, expected.losses)).toBeLessThan(tolerance)
  expect(relative(actual.beside, expected.beside)).toBeLessThan(100 * tolerance)
  expect(relative(actual.merged, expected.merged)).toBeLessThan(100 * tolerance)
})
