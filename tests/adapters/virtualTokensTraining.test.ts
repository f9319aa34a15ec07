// Proves that sft() trains virtual tokens: from a text, resumed with the same bytes where layers make them, and refusing rows too long for both.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { adapterOf } from '../../src/adapters/adapterSet.ts'
import type { AdapterInput } from '../../src/adapters/index.ts'
import { sft, type PreparedRun, type SftOptions } from '../../src/methods/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { makeModel, pairs, writeRows } from '../methods/support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

async function prepare(options: Partial<SftOptions>, folder = temporaryFolder()): Promise<{ run: PreparedRun, folder: string }> {
  const files = join(folder, 'train.jsonl')
  if (!existsSync(files)) {
    await makeModel(join(folder, 'model'))
    writeRows(files, pairs)
  }
  const run = await sft({
    cacheDir: false, reportTo: [], saveStrategy: 'no', maxLength: 64, perDeviceTrainBatchSize: 5, learningRate: 3e-2, lrSchedulerType: 'constant', maxSteps: 6,
    model: join(folder, 'model'), files, outputDir: join(folder, 'out'), ...options,
  })
  live.push(run, run.model)
  return { run, folder }
}

test.each<[string, AdapterInput]>([
  ['a projected prefix', { type: 'prefix', numVirtualTokens: 4, prefixProjection: true }],
  ['P-tuning', { type: 'ptuning', numVirtualTokens: 4 }],
  ['prompt tuning', { type: 'prompt', numVirtualTokens: 4 }],
])('%s: a stopped run resumes with the same bytes, recomputing layers', async (_, adapter) => {
  const options: Partial<SftOptions> = { adapter, saveStrategy: 'steps', saveSteps: 3, gradientCheckpointing: true }
  const whole = await prepare(options)
  await whole.run.train()
  const { run } = await prepare({ ...options, outputDir: join(whole.folder, 'again'), resumeFromCheckpoint: join(whole.folder, 'out', 'checkpoint-3') }, whole.folder)
  await run.train()
  const [a, b] = ['out', 'again'].map((name) => readFileSync(join(whole.folder, name, 'adapter_model.safetensors')))
  expect(Buffer.compare(a!, b!)).toBe(0)
  expect(Buffer.compare(a!, readFileSync(join(whole.folder, 'out', 'checkpoint-3', 'adapter_model.safetensors')))).not.toBe(0)
})

test("prompt tuning starts from a text in the model's own tokens", async () => {
  const text = 'colour of the sky'
  const { run } = await prepare({ adapter: { type: 'prompt', numVirtualTokens: 2, promptTuningInit: 'TEXT', promptTuningInitText: text } })
  const ids = run.tokenizer.encode(text).slice(0, 2)
  const table = await run.model.getParameter('model.embed_tokens.weight').tensor.toArray()
  const width = run.model.config.hiddenSize
  using values = adapterOf(run.model, 'default').virtualTokens!.snapshot()
  expect(await values.toArray()).toEqual(ids.flatMap((id) => table.slice(id * width, (id + 1) * width)))
})

test('rows that fit the model but not with virtual tokens are refused before training', async () => {
  const { run, folder } = await prepare({})
  const room = run.model.config.maxPositionEmbeddings
  const longest = Math.max(...Array.from({ length: run.data.train.length }, (_, i) => run.data.train.lengthOf(i)))
  const adapter: AdapterInput = { type: 'prefix', numVirtualTokens: room - longest + 1 }
  await expect(prepare({ adapter }, folder)).rejects.toThrow(`set maxLength to at most ${longest - 1}`)
})
