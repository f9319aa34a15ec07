// Proves that what fails in a training step, in a kernel or in a loss of the user's own, rejects train() and nothing else, and that what was saved stays good.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { latestCheckpoint, verifyCheckpoint } from '../../src/files/index.ts'
import { add, embedding, mul, sum } from '../../src/ops/index.ts'
import { Tensor } from '../../src/tensor/index.ts'
import type { LossResult } from '../../src/train/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { tinyModel, tinyTrainer, trainerHash, type RunOptions } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

/** Node ends the process for these. */
const unhandled: unknown[] = []
const note = (reason: unknown): void => { unhandled.push(reason) }
beforeAll(() => { process.on('unhandledRejection', note) })
afterAll(() => { process.off('unhandledRejection', note) })

/** A trainer whose loss goes through `change` from micro-batch `from` on, counted from 0. */
function trainerWith(from: number, change: (result: LossResult) => LossResult, options: Partial<RunOptions> = {}) {
  const model = tinyModel()
  const plain = tinyTrainer({ model, outputDir: temporaryFolder() })
  const loss = plain.task.loss.bind(plain.task)
  let count = 0
  const trainer = tinyTrainer({
    model, outputDir: temporaryFolder(), maxSteps: 8, loggingSteps: 5, ...options,
    task: { loss: (batch, numItems) => (count++ >= from ? change(loss(batch, numItems)) : loss(batch, numItems)) },
  })
  live.push(model, plain, trainer)
  return trainer
}

/** Adds nothing, by a token that the vocabulary lacks: only the kernel notices. */
function faulty(result: LossResult): LossResult {
  const absent = embedding(Tensor.ones([4, 2]), Tensor.from(Int32Array.of(4), [1]))
  return { ...result, loss: add(result.loss, mul(sum(absent), 0)) }
}

const settled = (): Promise<void> => new Promise((resolve) => { setTimeout(resolve, 20) })

test.each([0, 1, 3, 7])('a kernel fails from step %d on: the weights and the optimizer stay as they were before it', async (from) => {
  const options = { lrSchedulerType: 'constant' } as const
  const trainer = trainerWith(from, faulty, options)
  const before = await trainerHash(trainer)
  await expect(trainer.train()).rejects.toThrow('embedding: id[0] is 4, outside the vocabulary of 4')
  await settled()
  expect(unhandled).toEqual([])
  if (from === 0) { expect(await trainerHash(trainer)).toBe(before); return }
  const whole = trainerWith(from, faulty, { ...options, maxSteps: from })
  await whole.train()
  expect(await trainerHash(trainer)).toBe(await trainerHash(whole))
})

test('a loss throws after a kernel of the step before it, or of its own step, failed', async () => {
  for (const gradientAccumulationSteps of [1, 2]) {
    let calls = 0
    const trainer = trainerWith(4, (result) => {
      if (calls++ > 0) throw new RangeError('mine')
      return faulty(result)
    }, { gradientAccumulationSteps })
    await expect(trainer.train()).rejects.toThrow(/mine|outside the vocabulary/)
    await settled()
    expect(unhandled).toEqual([])
  }
})

test('the last checkpoint is whole, and from before the fault', async () => {
  const trainer = trainerWith(5, faulty, { saveStrategy: 'steps', saveSteps: 2 })
  await expect(trainer.train()).rejects.toThrow('outside the vocabulary')
  await settled()
  expect(unhandled).toEqual([])
  const checkpoint = await latestCheckpoint(trainer.args.outputDir)
  expect(checkpoint?.step).toBe(4)
  await verifyCheckpoint(checkpoint!.path)
  expect(existsSync(join(trainer.args.outputDir, 'checkpoint-6'))).toBe(false)
})
