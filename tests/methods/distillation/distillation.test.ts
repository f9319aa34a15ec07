// Proves distill() and teach() end to end on tiny models: what is learnt, what is recorded and resumed, and what is refused.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { ConfigError, FileFormatError } from '../../../src/errors.ts'
import { distill, dpo, grpo, Recording, sft, teach, type DistillOptions, type PreparedRun, type TeachOptions } from '../../../src/methods/index.ts'
import { AutoModelForCausalLM } from '../../../src/models/index.ts'
import { rewardEach } from '../../../src/rewards/index.ts'
import { backward, scope } from '../../../src/tensor/index.ts'
import { weightsHash } from '../../train/support.ts'
import { makeModel, pairs, writeRows } from '../support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const keep = (run: PreparedRun): PreparedRun => { live.push(run, run.model); return run }

const folder = mkdtempSync(join(tmpdir(), 'anneal-'))
afterAll(() => { rmSync(folder, { recursive: true, force: true }) })
const [teacher, middle, student] = [join(folder, 'teacher'), join(folder, 'middle'), join(folder, 'student')]
const files = join(folder, 'pairs.jsonl')
const quiet = { files, cacheDir: false, reportTo: [], saveStrategy: 'no', perDeviceTrainBatchSize: 5, learningRate: 1e-2, device: 'cpu' } satisfies Partial<DistillOptions>
const recording = { teacher, files, cacheDir: false, device: 'cpu' } satisfies Partial<TeachOptions>
let outputs = 0
const outputDir = (): string => join(folder, `out${outputs++}`)

beforeAll(async () => {
  await makeModel(join(folder, 'start'))
  writeRows(files, pairs)
  for (const [output, numTrainEpochs] of [[teacher, 8], [middle, 2]] as const) {
    const run = await sft({ ...quiet, model: join(folder, 'start'), outputDir: output, numTrainEpochs })
    await run.train()
    run.dispose()
    run.model.dispose()
  }
  await makeModel(student)
})

/** The loss of the first step's batch, with the gradient of every parameter. */
async function firstStep(options: Partial<DistillOptions>): Promise<{ loss: number, gradients: number[] }> {
  const run = keep(await distill({ ...quiet, model: student, outputDir: outputDir(), ...options }))
  const { microBatches, numItems } = await run.trainer.task.batches(0)
  const losses: Promise<number>[] = []
  scope(() => {
    const { loss } = run.trainer.task.loss(microBatches[0]!, numItems)
    losses.push(loss.item())
    backward(loss)
  })
  const gradients: number[] = []
  for (const parameter of run.model.parameters()) gradients.push(...await parameter.grad!.toArray())
  return { loss: (await losses[0])!, gradients }
}

const largest = (a: readonly number[]): number => a.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
const apart = (a: readonly number[], b: readonly number[]): number => largest(a.map((x, i) => x - b[i]!)) / largest(a)

describe('soft labels', () => {
  // The reverse KL seeks one mode at a time, so it falls more slowly.
  test.each<[string, number, Partial<DistillOptions>]>([
    ['forward KL', 3, { temperature: 2, alpha: 0.3 }],
    ['reverse KL', 1.5, { beta: 1 }],
    ['generalised JSD', 2, { beta: 0.5 }],
  ])('%s: the student comes near the teacher', async (_, factor, options) => {
    const run = keep(await distill({ ...quiet, model: student, teacher, outputDir: outputDir(), numTrainEpochs: 6, evalSplit: 5, ...options }))
    const before = await run.trainer.evaluate()
    await run.train()
    const after = await run.trainer.evaluate()
    expect(after['divergence']).toBeLessThan(before['divergence']! / factor)
  })

  test('a copy of the teacher has nothing to learn', async () => {
    const { loss } = await firstStep({ model: teacher, teacher })
    expect(Math.abs(loss)).toBeLessThan(1e-6)
  })

  test('the divergence has temperature² unless it is not wanted', async () => {
    const [scaled, plain] = [await firstStep({ teacher, temperature: 3 }), await firstStep({ teacher, temperature: 3, scaleByTemperature: false })]
    expect(scaled.loss / plain.loss).toBeCloseTo(9, 4)
  })

  test('alpha 1 is fine-tuning', async () => {
    const { loss } = await firstStep({ teacher, alpha: 1 })
    const run = keep(await sft({ ...quiet, model: student, outputDir: outputDir() }))
    const { microBatches, numItems } = await run.trainer.task.batches(0)
    expect(loss).toBeCloseTo(await run.trainer.task.loss(microBatches[0]!, numItems).loss.item(), 5)
  })
})

describe('recorded', () => {
  test('the whole vocabulary gives the gradients of the live teacher', async () => {
    const output = outputDir()
    const { vocabSize } = (await AutoModelForCausalLM.fromPretrained(teacher).then((model) => { live.push(model); return model.config }))
    for (const options of [{ temperature: 2 }, { beta: 0.4, temperature: 2, alpha: 0.2 }, { beta: 1, temperature: 2 }]) {
      await teach({ ...recording, output, topK: vocabSize, precision: 'float32', temperature: 2 })
      const [own, other] = [await firstStep({ recorded: output, ...options }), await firstStep({ teacher, ...options })]
      expect(own.loss).toBeCloseTo(other.loss, 5)
      expect(apart(other.gradients, own.gradients)).toBeLessThan(2e-5)
    }
  })

  test('a few tokens teach nearly as much, and the evaluation data is recorded too', async () => {
    const output = outputDir()
    const { meanTail } = await teach({ ...recording, output, topK: 16, evalSplit: 5, tokensPerShard: 20 })
    expect(meanTail).toBeLessThan(0.2)
    const run = keep(await distill({ ...quiet, model: student, recorded: output, outputDir: outputDir(), numTrainEpochs: 6, evalSplit: 5 }))
    const before = await run.trainer.evaluate()
    await run.train()
    expect((await run.trainer.evaluate())['divergence']).toBeLessThan(before['divergence']! / 3)
  })

  test('goes on where it stopped, and comes to the same', async () => {
    const [whole, stopped] = [outputDir(), outputDir()]
    const options = { ...recording, topK: 8, tokensPerShard: 16, tokensPerBatch: 16 }
    await teach({ ...options, output: whole })
    const controller = new AbortController()
    await expect(teach({ ...options, output: stopped }, { signal: controller.signal, onProgress: ({ rows }) => { if (rows > 12) controller.abort() } })).rejects.toThrow()
    await expect(Recording.open(stopped)).rejects.toThrow(/not finished/)
    const { reused, rows } = await teach({ ...options, output: stopped })
    expect(reused).toBeGreaterThan(0)
    expect(reused).toBeLessThan(rows)
    for (const name of ['shard-000000.bin', 'shard-000003.bin']) expect(readFileSync(join(stopped, name)).equals(readFileSync(join(whole, name)))).toBe(true)
    expect((await teach({ ...options, output: stopped })).reused).toBe(rows)
  })

  test('half precision keeps log-probabilities to 2^-11 of themselves', async () => {
    const [half, single] = [outputDir(), outputDir()]
    await teach({ ...recording, output: half, topK: 32 })
    await teach({ ...recording, output: single, topK: 32, precision: 'float32' })
    const [a, b] = [(await Recording.open(half)).row(3), (await Recording.open(single)).row(3)]
    expect(a.ids).toEqual(b.ids)
    b.logprobs.forEach((x, i) => { expect(Math.abs(a.logprobs[i]! - x)).toBeLessThanOrEqual(Math.abs(x) * 2 ** -11 + 2 ** -25) })
  })

  test('another dataset, teacher or temperature, and damage, are refused', async () => {
    const output = outputDir()
    await teach({ ...recording, output, topK: 4 })
    const options = { ...quiet, model: student, recorded: output, outputDir: outputDir() }
    const other = writeRows(join(folder, 'other.jsonl'), pairs.slice(1))
    await expect(distill({ ...options, files: other })).rejects.toThrow(/made of other data: expected fingerprint/)
    await expect(distill({ ...options, temperature: 2 })).rejects.toThrow(/was recorded at 1, but this run has 2/)
    await expect(distill({ ...options, teacher: student })).rejects.toThrow(/made by another teacher/)
    await expect(distill({ ...options, lmbda: 0.5 })).rejects.toThrow(ConfigError)
    await expect(teach({ ...recording, teacher: student, output, topK: 4 })).rejects.toThrow(/another teacherFingerprint/)
    await expect(teach({ ...recording, output, topK: 8 })).rejects.toThrow(/another topK: expected 8, got 4/)
    const shard = join(output, 'shard-000000.bin')
    const bytes = readFileSync(shard)
    bytes[bytes.length - 40]! ^= 1
    writeFileSync(shard, bytes)
    await expect(Recording.open(output).then((one) => one.row(0))).rejects.toThrow(FileFormatError)
    await expect(teach({ ...recording, output, topK: 4 })).rejects.toThrow(/checksum is wrong/)
    rmSync(shard)
    expect((await teach({ ...recording, output, topK: 4 })).reused).toBe(0)
  })
})

describe('features', () => {
  test('hidden states, attention maps and the projections between widths are learnt, saved and loaded', async () => {
    const options = { ...quiet, model: student, teacher, hiddenLayers: [[1, 1], [2, 2]], attentionLayers: [[0, 1]], hiddenLoss: 'cosine', hiddenWeight: 2, saveStrategy: 'steps', saveSteps: 3, learningRate: 3e-3 } satisfies Partial<DistillOptions>
    const [whole, stopped] = [outputDir(), outputDir()]
    const run = keep(await distill({ ...options, outputDir: whole, maxSteps: 6, evalSplit: 5 }))
    const before = await run.trainer.evaluate()
    await run.train()
    expect((await run.trainer.evaluate())['features']).toBeLessThan(before['features']!)
    expect(existsSync(join(whole, 'checkpoint-3', 'projections.safetensors'))).toBe(true)
    const first = keep(await distill({ ...options, outputDir: stopped, maxSteps: 6, evalSplit: 5 }))
    const controller = new AbortController()
    first.trainer.on((event) => { if (event.type === 'step' && event.step === 2) controller.abort() })
    expect((await first.train({ signal: controller.signal })).reason).toBe('aborted')
    const second = keep(await distill({ ...options, outputDir: stopped, maxSteps: 6, evalSplit: 5, resumeFromCheckpoint: true }))
    await second.train()
    expect(await weightsHash(second.model)).toBe(await weightsHash(run.model))
  })

  test('the mean squared error of a copy with the identity as projection is nothing', async () => {
    const run = keep(await distill({ ...quiet, model: teacher, teacher, outputDir: outputDir(), attentionLayers: [[0, 0], [1, 1]] }))
    const { microBatches, numItems } = await run.trainer.task.batches(0)
    const { sums } = run.trainer.task.loss(microBatches[0]!, numItems)
    expect(await sums!['features']!.sum.item()).toBeLessThan(1e-9)
  })
})

describe('on its own samples', () => {
  test.each<[string, Partial<DistillOptions>]>([
    ['GKD', { lmbda: 0.5, beta: 0.5, seqKd: true }],
    ['MiniLLM', { objective: 'minillm', lmbda: 1, gamma: 0.9 }],
  ])('%s: runs, repeats itself and comes nearer', async (_, options) => {
    const run = async (): Promise<PreparedRun> => keep(await distill({ ...quiet, model: middle, teacher, outputDir: outputDir(), maxSteps: 12, maxNewTokens: 8, evalSplit: 5, learningRate: 3e-3, ...options }))
    const [one, two] = [await run(), await run()]
    const before = await one.trainer.evaluate()
    await one.train()
    await two.train()
    expect(await weightsHash(one.model)).toBe(await weightsHash(two.model))
    expect((await one.trainer.evaluate())['divergence']).toBeLessThan(before['divergence']!)
  })
})

test('a student may be an adapter, which alone is saved', async () => {
  const output = outputDir()
  const run = keep(await distill({ ...quiet, model: middle, teacher, outputDir: output, adapter: { type: 'lora', r: 4, targetModules: 'all-linear' }, numTrainEpochs: 4, evalSplit: 5 }))
  const before = await run.trainer.evaluate()
  await run.train()
  expect((await run.trainer.evaluate())['divergence']).toBeLessThan(before['divergence']!)
  expect(existsSync(join(output, 'adapter_config.json'))).toBe(true)
  expect(existsSync(join(output, 'model.safetensors'))).toBe(false)
})

describe('composes', () => {
  const falls = async (options: Partial<DistillOptions>, factor: number): Promise<void> => {
    const run = keep(await distill({ ...quiet, outputDir: outputDir(), numTrainEpochs: 4, evalSplit: 5, ...options }))
    const before = await run.trainer.evaluate()
    await run.train()
    expect((await run.trainer.evaluate())['divergence']).toBeLessThan(before['divergence']! * factor)
  }
  const where = { outputDir: join(folder, 'tuned'), reportTo: [], saveStrategy: 'no', device: 'cpu', learningRate: 1e-3 } satisfies Partial<DistillOptions>

  test('a QLoRA student: adapters over weights of 4 bits', () => falls({ model: middle, teacher, quantize: 'nf4', adapter: { type: 'lora', r: 4, targetModules: 'all-linear' } }, 0.95))

  test('a student that GRPO trained', async () => {
    const prompts = writeRows(join(folder, 'prompts.jsonl'), pairs.map(({ prompt }) => ({ prompt })))
    const length = rewardEach('length', ({ completionIds }) => completionIds.length)
    const run = await grpo({ ...where, model: middle, files: prompts, maxSteps: 2, numGenerations: 4, perDeviceTrainBatchSize: 8, maxCompletionLength: 6, rewards: [length] })
    live.push(run, run.model)
    await run.train()
    await falls({ model: where.outputDir, teacher }, 0.7)
  })

  test('a teacher that DPO tuned', async () => {
    const preferences = writeRows(join(folder, 'preferences.jsonl'), pairs.map((pair, i) => ({ prompt: pair.prompt, chosen: pair.completion, rejected: pairs[(i + 7) % pairs.length]!.completion })))
    const run = await dpo({ ...where, model: teacher, files: preferences, maxSteps: 3, perDeviceTrainBatchSize: 5 })
    live.push(run, run.model)
    await run.train()
    await falls({ model: middle, teacher: where.outputDir, temperature: 2 }, 0.7)
  })
})

test('a student begins as some layers of the teacher', async () => {
  const run = keep(await distill({ ...quiet, teacher, initFromTeacher: [1], outputDir: outputDir(), maxSteps: 1 }))
  const model = await AutoModelForCausalLM.fromPretrained(teacher)
  live.push(model)
  expect(run.model.config.numHiddenLayers).toBe(1)
  const [own, theirs] = [new Map(run.model.everyName()), new Map(model.everyName())]
  expect(await own.get('model.layers.0.mlp.up_proj.weight')!.tensor.toArray()).toEqual(await theirs.get('model.layers.1.mlp.up_proj.weight')!.tensor.toArray())
  expect(await own.get('model.norm.weight')!.tensor.toArray()).toEqual(await theirs.get('model.norm.weight')!.tensor.toArray())
  await run.train()
})

test('sequences are rows to fine-tune on, and go on where they stopped', async () => {
  const [output, again] = [join(outputDir(), 'a.jsonl'), join(outputDir(), 'b.jsonl')]
  for (const path of [output, again]) mkdirSync(dirname(path), { recursive: true })
  const options = { ...recording, write: 'sequences', numReturnSequences: 2, maxNewTokens: 8 } satisfies Partial<TeachOptions>
  expect(await teach({ ...options, output })).toEqual({ rows: pairs.length, reused: 0 })
  const lines = readFileSync(output, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as { prompt: string, completion: string })
  expect(lines.length).toBe(2 * pairs.length)
  expect(lines[2]!.prompt).toBe(pairs[1]!.prompt)
  const controller = new AbortController()
  controller.abort()
  await expect(teach({ ...options, output: again }, { signal: controller.signal })).rejects.toThrow()
  await teach({ ...options, output: again })
  expect(readFileSync(again, 'utf8')).toBe(readFileSync(output, 'utf8'))
})

test.each<[string, Partial<DistillOptions>]>([
  ['teacher: give the folder of a teacher, or recorded', { model: student }],
  ['temperature: ', { model: student, teacher, temperature: 0 }],
  ['model: give the folder of a student, or initFromTeacher', { teacher }],
  ['hiddenLayers: expected layers of the teacher from 0 to 2, got 3 in [1, 3]', { model: student, teacher, hiddenLayers: [[1, 3]] }],
  ['attentionLayers: expected layers of the student from 0 to 1, got 2 in [2, 0]', { model: student, teacher, attentionLayers: [[2, 0]] }],
  ['initFromTeacher: expected layers from 0 to 1, which the teacher has, got 5', { teacher, initFromTeacher: [0, 5] }],
  ["lmbda: MiniLLM learns from the student's own completions alone", { model: student, teacher, objective: 'minillm' }],
  ['packing: completions are sampled for one prompt at a time', { model: student, teacher, lmbda: 1, packing: true }],
])('refused: %s', async (message, options) => {
  const refused = distill({ ...quiet, outputDir: join(folder, 'refused'), ...options })
  await expect(refused).rejects.toThrow(ConfigError)
  await expect(refused).rejects.toThrow(message)
})

test.each<[string, Partial<TeachOptions>]>([
  ['temperature: ', { temperature: 0 }],
  ['topK: expected at most ', { topK: 100_000 }],
])('teach refuses: %s', async (message, options) => {
  const refused = teach({ ...recording, output: join(folder, 'refused'), ...options })
  await expect(refused).rejects.toThrow(ConfigError)
  await expect(refused).rejects.toThrow(message)
})

test('models of different tokenizers are refused with the token in question', async () => {
  const other = join(folder, 'other')
  await makeModel(other)
  const path = join(other, 'tokenizer.json')
  const json = JSON.parse(readFileSync(path, 'utf8')) as { model: { vocab: Record<string, number> } }
  const [first, second] = Object.keys(json.model.vocab).slice(60, 62) as [string, string]
  ;[json.model.vocab[first], json.model.vocab[second]] = [json.model.vocab[second]!, json.model.vocab[first]!]
  writeFileSync(path, JSON.stringify(json))
  await expect(distill({ ...quiet, model: other, teacher, outputDir: outputDir() })).rejects.toThrow(/have different tokenizers: .* is \d+ in one and \d+ in the other.*objective 'uld'/)
})
