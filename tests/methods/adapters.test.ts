// Proves that sft() trains adapters of every kind by options alone: the loss falls, the base stays, and a resumed run ends with the same bytes.
import { existsSync, readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { loadAdapter, type AdapterInput } from '../../src/adapters/index.ts'
import { ConfigError } from '../../src/errors.ts'
import { sft, type PreparedRun, type SftOptions } from '../../src/methods/index.ts'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { makeModel, pairs, writeRows } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

async function prepare(options: Partial<SftOptions>, folder = temporaryFolder()): Promise<{ run: PreparedRun, folder: string }> {
  const files = join(folder, 'train.jsonl')
  if (!existsSync(files)) {
    await makeModel(join(folder, 'model'))
    writeRows(files, pairs)
  }
  const run = await sft({
    cacheDir: false, reportTo: [], saveStrategy: 'no', maxLength: 64, perDeviceTrainBatchSize: 5, learningRate: 3e-2, lrSchedulerType: 'constant', maxSteps: 15,
    model: join(folder, 'model'), files, outputDir: join(folder, 'out'), evalSplit: 10, ...options,
  })
  live.push(run, run.model)
  return { run, folder }
}

const kinds: [string, AdapterInput][] = [
  ['lora', { type: 'lora', targetModules: 'all-linear', r: 4, loraDropout: 0.1 }],
  ['dora with dropout', { type: 'lora', targetModules: ['q_proj', 'down_proj'], r: 4, useDora: true, loraDropout: 0.1 }],
  ['pissa', { type: 'lora', targetModules: ['q_proj'], r: 4, initLoraWeights: 'pissa' }],
  ['lora+', { type: 'lora', r: 4, loraplusLrRatio: 4 }],
  ['ia3', { type: 'ia3' }],
  ['houlsby', { type: 'bottleneck', reductionFactor: 4 }],
  ['pfeiffer', { type: 'bottleneck', architecture: 'pfeiffer', reductionFactor: 4, nonLinearity: 'gelu' }],
  ['freeze', { type: 'freeze', freezeTrainableLayers: 1, freezeTrainableModules: ['mlp'], freezeExtraModules: ['norm'] }],
  ['prefix', { type: 'prefix', numVirtualTokens: 4 }],
  ['prompt', { type: 'prompt', numVirtualTokens: 4 }],
  ['ptuning', { type: 'ptuning', numVirtualTokens: 4 }],
]

describe.each(kinds)('%s', (_, adapter) => {
  test('learns, and what is saved loads over the base and computes the same', async () => {
    const { run, folder } = await prepare({ adapter })
    const before = await run.trainer.evaluate()
    const result = await run.train()
    expect(result.reason).toBe('finished')
    const after = await run.trainer.evaluate()
    expect(after['loss']).toBeLessThan(before['loss']! - 0.05)
    const files = readdirSync(join(folder, 'out'))
    expect(files).toContain('adapter_config.json')
    expect(files).not.toContain('model.safetensors')
    const base = await AutoModelForCausalLM.fromPretrained(join(folder, 'model'))
    live.push(base)
    await loadAdapter(base, join(folder, 'out'))
    const inputIds = [[5, 9, 12, 40, 41], [7, 8]]
    const [a, b] = await Promise.all([run.model, base].map((model) => model.forward({ inputIds }).logits!.toArray()))
    expect(Math.max(...a!.map((value, i) => Math.abs(value - b![i]!)))).toBeLessThan(1e-5)
  })
})

test('a stopped run resumes with the same bytes, recomputing layers, with 8-bit states and a bfloat16 base', async () => {
  const options: Partial<SftOptions> = {
    adapter: { type: 'lora', targetModules: 'all-linear', r: 16, loraDropout: 0.1 }, saveStrategy: 'steps', saveSteps: 3, maxSteps: 6, gradientCheckpointing: true, optim: 'adamw_8bit', dtype: 'bfloat16',
  }
  const whole = await prepare(options)
  await whole.run.train()
  const { run } = await prepare({ ...options, outputDir: join(whole.folder, 'again'), resumeFromCheckpoint: join(whole.folder, 'out', 'checkpoint-3') }, whole.folder)
  await run.train()
  const [a, b] = await Promise.all(['out', 'again'].map((name) => readFile(join(whole.folder, name, 'adapter_model.safetensors'))))
  expect(Buffer.compare(a!, b!)).toBe(0)
})

test('goes on with a saved adapter', async () => {
  const { run, folder } = await prepare({ adapter: 'lora' })
  await run.train()
  const { run: next } = await prepare({ adapterPath: join(folder, 'out'), outputDir: join(folder, 'next') }, folder)
  const [before, after] = [await run.trainer.evaluate(), await next.trainer.evaluate()]
  expect(after['loss']).toBeCloseTo(before['loss']!, 5)
  expect(await next.train()).toMatchObject({ reason: 'finished' })
})

test.each<[string, Partial<SftOptions>]>([
  ['adapter.type', { adapter: { type: 'lore' } }],
  ['adapter.r', { adapter: { type: 'lora', r: 0 } }],
  ['targetModules: ["q_prok"] matches no layer of the model; did you mean "q_proj"?; it has', { adapter: { type: 'lora', targetModules: ['q_prok'] } }],
  ['layersToTransform are applied', { adapter: { type: 'lora', layersToTransform: 7 } }],
  ['modulesToSave: the model has no module "lm_haed"; did you mean "lm_head"?', { adapter: { type: 'lora', modulesToSave: ['lm_haed'] } }],
  ['bitfit: the model has no biases', { adapter: { type: 'bitfit' } }],
  ['freezeTrainableLayers: expected from -2 to 2', { adapter: { type: 'freeze', freezeTrainableLayers: 3 } }],
  ['trainable, freeze: an adapter says itself what is trained', { adapter: { type: 'lora' }, freeze: ['lm_head'] }],
  ['adapter, adapterPath', { adapter: { type: 'lora' }, adapterPath: 'x' }],
])('says "%s"', async (message, options) => {
  const promise = prepare(options)
  await expect(promise).rejects.toThrow(message)
  await expect(promise).rejects.toThrow(ConfigError)
})

test('QLoRA: the same data over a 4-bit base ends close to LoRA over the whole one', async () => {
  const adapter: AdapterInput = { type: 'lora', targetModules: 'all-linear', r: 8 }
  const { run: plain } = await prepare({ adapter, maxSteps: 30 })
  const { run: quantized } = await prepare({ adapter, quantize: 'nf4', maxSteps: 30 })
  const before = (await plain.trainer.evaluate())['loss']!
  await plain.train()
  await quantized.train()
  const [a, b] = [(await plain.trainer.evaluate())['loss']!, (await quantized.trainer.evaluate())['loss']!]
  expect(a).toBeLessThan(before - 0.5)
  expect(Math.abs(a - b)).toBeLessThan(0.25 * (before - a))
})

test('quantised weights need an adapter', async () => {
  await expect(prepare({ quantize: 'nf4' })).rejects.toThrow('quantize: quantised weights are not trained themselves; add an adapter')
})
