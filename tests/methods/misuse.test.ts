// Proves that what a program may do wrong with a run ends in an error that says what is wrong, and harms nothing.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { sft } from '../../src/methods/index.ts'
import { generate } from '../../src/generate/index.ts'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { makeModel, pairs, writeRows } from './support.ts'

const shared = mkdtempSync(join(tmpdir(), 'anneal-misuse-'))
const model = join(shared, 'model')
const files = join(shared, 'train.jsonl')
beforeAll(async () => {
  await makeModel(model)
  writeRows(files, pairs)
})
afterAll(() => { rmSync(shared, { recursive: true, force: true }) })

type Options = Parameters<typeof sft>[0]

async function withRun<T>(options: Partial<Options>, body: (run: Awaited<ReturnType<typeof sft>>) => Promise<T>): Promise<T> {
  const run = await sft({ model, files, cacheDir: false, outputDir: temporaryFolder(), maxLength: 64, maxSteps: 3, perDeviceTrainBatchSize: 4, saveStrategy: 'no', ...options })
  try {
    return await body(run)
  } finally {
    run.dispose()
    run.model.dispose()
  }
}

const train = (options: Partial<Options>) => withRun(options, (run) => run.train())

test('training into the folder of the model is refused, and the model stays', async () => {
  const before = readFileSync(join(model, 'model.safetensors'))
  await expect(train({ outputDir: join(model, '..', 'model') })).rejects.toThrow(/^outputDir: expected another folder than that of the model, .*model, which would be lost$/)
  expect(readFileSync(join(model, 'model.safetensors')).equals(before)).toBe(true)
})

test('an output directory that is a file is told as such', async () => {
  const file = join(temporaryFolder(), 'out')
  writeFileSync(file, 'mine')
  await expect(train({ outputDir: file })).rejects.toThrow(/out: expected a folder to write into, got a file; choose another output directory$/)
  expect(readFileSync(file, 'utf8')).toBe('mine')
})

test('a name of the Hugging Face Hub is told how to become a folder', async () => {
  await expect(train({ model: 'Qwen/Qwen2.5-0.5B' })).rejects.toThrow('hf download Qwen/Qwen2.5-0.5B --local-dir Qwen2.5-0.5B')
})

test('aborted before it began, a run writes no checkpoint', async () => {
  const outputDir = temporaryFolder()
  const result = await withRun({ outputDir }, (run) => run.train({ signal: AbortSignal.abort() }))
  expect(result).toMatchObject({ reason: 'aborted', step: 0 })
  expect(result.lastCheckpoint).toBeUndefined()
  expect(existsSync(join(outputDir, 'checkpoint-0'))).toBe(false)
  expect(existsSync(join(outputDir, '.anneal.lock'))).toBe(false)
})

test('train() twice at a time: the second is refused and disturbs nothing; one after the other: it has nothing to do', async () => {
  await withRun({}, async (run) => {
    const [seen, training]: [string[], boolean[]] = [[], []]
    run.trainer.on(({ type }) => {
      seen.push(type)
      if (type === 'step') training.push(run.model.training)
    })
    const [first, second] = await Promise.allSettled([run.train(), run.train()])
    expect(first.status).toBe('fulfilled')
    expect(second).toMatchObject({ status: 'rejected', reason: { name: 'LockedError', message: expect.stringContaining('await that train() before the next') as string } })
    expect([seen.filter((type) => type === 'end').length, training]).toEqual([1, [true, true, true]])
    expect(await run.train()).toMatchObject({ reason: 'finished', step: 3 })
  })
})

test('a model that is disposed, or data that is closed, in the middle of a training ends it with an error', async () => {
  await withRun({ maxSteps: 1000 }, async (run) => {
    run.trainer.on((event) => { if (event.type === 'step' && event.step === 2) run.model.dispose() })
    await expect(run.train()).rejects.toThrow('its model was disposed')
  })
  await withRun({ maxSteps: 1000, cacheDir: temporaryFolder() }, async (run) => {
    run.trainer.on((event) => { if (event.type === 'step' && event.step === 2) run.data.close() })
    await expect(run.train()).rejects.toThrow('dataset: it was closed')
  })
})

test('a model that is disposed while it generates ends that with an error', async () => {
  const own = await AutoModelForCausalLM.fromPretrained(model)
  const answer = generate(own, null, [[1, 2, 3]], { maxNewTokens: 60 })
  setImmediate(() => { own.dispose() })
  await expect(answer).rejects.toThrow('its model was disposed')
})
