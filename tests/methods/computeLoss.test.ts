// Proves that a loss of the caller's takes the place of the language model's: in steps, in evaluation and in the log, independent of how a step is cut up.
import { afterEach, expect, test } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import { sft, type ComputeLoss, type SftInput } from '../../src/methods/index.ts'
import { exp, mul, sub, sum } from '../../src/ops/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { weightsOf } from '../train/support.ts'
import { logOf } from './preference/support.ts'
import { pairs, sharedModel } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

const model = sharedModel()
const nll: ComputeLoss = (policy, batch, numItems) => mul(sum(policy.logprobs(batch).logprob), -1 / numItems)
const focal: ComputeLoss = (policy, batch, numItems) => {
  const { logprob } = policy.logprobs(batch)
  const doubt = sub(1, exp(logprob))
  return { loss: mul(sum(mul(mul(doubt, doubt), logprob)), -1 / numItems), sums: { doubt: { sum: sum(doubt.detach()), count: batch.numItems } } }
}

async function trained(changed: Partial<SftInput>) {
  const run = await sft({ model, rows: pairs.slice(0, 16), evalRows: pairs.slice(16, 20), outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', cacheDir: false, maxSteps: 3, learningRate: 1e-3, loggingSteps: 1, ...changed })
  live.push(run, run.model)
  const before = await run.trainer.evaluate()
  const logs = await logOf(run)
  return { before, logs, weights: await weightsOf(run.model) }
}

const most = (a: Map<string, Float32Array>, b: typeof a): number => Math.max(...Array.from(a, ([name, one]) => one.reduce((max, x, i) => Math.max(max, Math.abs(x - b.get(name)![i]!)), 0)))

test('the loss of the language model, written by hand, trains as its own', async () => {
  const [own, given] = [await trained({}), await trained({ computeLoss: nll })]
  expect(given.before['loss']).toBeCloseTo(own.before['loss']!, 5)
  for (const [i, log] of given.logs.entries()) expect(log['loss']).toBeCloseTo(own.logs[i]!['loss']!, 5)
  expect(most(own.weights, given.weights)).toBeLessThan(1e-4)
})

test('another loss trains otherwise, with its metrics, and steps of several batches are those of one', async () => {
  const whole = await trained({ computeLoss: focal, perDeviceTrainBatchSize: 8 })
  const cut = await trained({ computeLoss: focal, perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 4 })
  expect(whole.logs[0]!['doubt']).toBeGreaterThan(0.9)
  expect(whole.before['doubt']).toBeLessThan(1)
  for (const [i, log] of cut.logs.entries()) expect(log['loss']).toBeCloseTo(whole.logs[i]!['loss']!, 5)
  expect(most(whole.weights, cut.weights)).toBeLessThan(1e-4)
  expect(whole.logs[0]!['loss']).toBeLessThan((await trained({})).logs[0]!['loss']!)
})

test.each<[string, Partial<SftInput>]>([
  ['labelSmoothingFactor: computeLoss takes the place', { computeLoss: nll, labelSmoothingFactor: 0.1 }],
  ['computeLoss: expected a tensor of one number, got [', { computeLoss: (policy, batch) => policy.logprobs(batch).logprob }],
  ['computeLoss: expected a tensor of one number, got a value of type number', { computeLoss: () => ({ loss: 1 }) as never }],
])('%s', async (message, changed) => {
  const failure = trained(changed)
  await expect(failure).rejects.toThrow(ConfigError)
  await expect(failure).rejects.toThrow(message)
})
