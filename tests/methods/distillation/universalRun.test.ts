// Proves distill() from a teacher of another tokenizer: what is learnt, and what is refused.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { ConfigError } from '../../../src/errors.ts'
import { distill, sft, type DistillOptions, type PreparedRun } from '../../../src/methods/index.ts'
import { AutoModelForCausalLM } from '../../../src/models/index.ts'
import { trainTokenizer } from '../../../src/tokenizers/index.ts'
import { weightsHash } from '../../train/support.ts'
import { makeModel, modelConfig, pairs, sentences, writeRows } from '../support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const keep = <T extends PreparedRun>(run: T): T => { live.push(run, run.model); return run }
const folder = mkdtempSync(join(tmpdir(), 'anneal-'))
afterAll(() => { rmSync(folder, { recursive: true, force: true }) })
const [start, teacher, stranger] = [join(folder, 'start'), join(folder, 'teacher'), join(folder, 'stranger')]
const files = join(folder, 'pairs.jsonl')
const quiet = { files, cacheDir: false, reportTo: [], saveStrategy: 'no', perDeviceTrainBatchSize: 5, learningRate: 1e-2, device: 'cpu' } satisfies Partial<DistillOptions>
let outputs = 0
const outputDir = (): string => join(folder, `out${outputs++}`)

beforeAll(async () => {
  await makeModel(start)
  writeRows(files, pairs)
  const run = await sft({ ...quiet, model: start, outputDir: teacher, numTrainEpochs: 8 })
  await run.train()
  run.dispose()
  run.model.dispose()
  // Other tokens, another number of them, other special tokens.
  const tokenizer = await trainTokenizer({ type: 'bpe', files: [writeRows(join(folder, 'corpus.txt'), sentences)], vocabSize: 290, specialTokens: ['<s>', '</s>'], roles: { eosToken: '</s>', padToken: '</s>' }, outputDir: stranger })
  const model = AutoModelForCausalLM.fromConfig({ ...modelConfig, vocabSize: tokenizer.embeddingRows, maxPositionEmbeddings: 96, eosTokenId: tokenizer.eosTokenId, bosTokenId: null }, { seed: 5 })
  await model.savePretrained(stranger)
  model.dispose()
})

/** A run's metrics of held-out rows before and after it. */
async function learnt(options: Partial<DistillOptions>): Promise<{ run: PreparedRun, before: Record<string, number>, after: Record<string, number> }> {
  const run = keep(await distill({ ...quiet, teacher, outputDir: outputDir(), numTrainEpochs: 5, evalSplit: 5, ...options }))
  const before = await run.trainer.evaluate()
  await run.train()
  return { run, before, after: await run.trainer.evaluate() }
}

describe('from a teacher of another tokenizer', () => {
  const uld = { model: stranger, objective: 'uld' } satisfies Partial<DistillOptions>

  test.each<[string, Partial<DistillOptions>]>([
    ['merging by the chain rule', {}],
    ["merging as TRL's default does, with labels", { uldTokenMergeStrategy: 'observed', alpha: 0.2 }],
    ['the tokens both have one by one', { uldUseHybridLoss: true, beta: 0.5 }],
    ['by place', { useExtendedUld: false, uldSkipEos: false, temperature: 1.5, uldHybridMatchedWeight: 1, uldHybridUnmatchedWeight: 1 }],
  ])('%s: the student comes nearer', async (_, options) => {
    const { before, after } = await learnt({ ...uld, ...options })
    expect(after['divergence']).toBeLessThan(0.7 * before['divergence']!)
  })

  test('the labels it was never shown become likelier', async () => {
    const { before, after } = await learnt({ ...uld, uldUseHybridLoss: true, beta: 0 })
    expect(after['nll']).toBeLessThan(before['nll']! - 0.5)
  })

  test("on the student's own samples: runs and repeats itself", async () => {
    const options = { ...uld, lmbda: 0.5, maxNewTokens: 8, maxSteps: 3 } satisfies Partial<DistillOptions>
    expect(await weightsHash((await learnt(options)).run.model)).toBe(await weightsHash((await learnt(options)).run.model))
  })

  test('the loss of two micro-batches is that of one', async () => {
    const options = { ...uld, maxSteps: 1, numTrainEpochs: 1 } satisfies Partial<DistillOptions>
    const losses = async (changed: Partial<DistillOptions>): Promise<number> => {
      const run = keep(await distill({ ...quiet, teacher, outputDir: outputDir(), ...options, ...changed }))
      const { microBatches, numItems } = await run.trainer.task.batches(0)
      let total = 0
      for (const batch of microBatches) total += await run.trainer.task.loss(batch, numItems).loss.item()
      return total
    }
    expect(await losses({ perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 2 })).toBeCloseTo(await losses({ perDeviceTrainBatchSize: 4 }), 5)
  })

  test('a teacher with the same tokenizer gives no distance to a copy of itself', async () => {
    const run = keep(await distill({ ...quiet, model: teacher, teacher, objective: 'uld', outputDir: outputDir() }))
    const { microBatches, numItems } = await run.trainer.task.batches(0)
    expect(await run.trainer.task.loss(microBatches[0]!, numItems).loss.item()).toBeLessThan(1e-5)
  })

  test.each<[string, Partial<DistillOptions>]>([
    ['have different tokenizers: ', { objective: 'divergence' }],
    ["match their sorted distributions with objective 'uld'", { objective: 'divergence' }],
    ["recorded: it holds the teacher's tokens", { recorded: folder }],
    ['packing: objective', { packing: true }],
    ['seqKd: the teacher writes its own tokens', { seqKd: true }],
    ['hiddenLayers and attentionLayers: ', { hiddenLayers: [[0, 0]] }],
    ['uldHybridMatchedWeight and uldHybridUnmatchedWeight: give both', { uldHybridMatchedWeight: 1 }],
  ])('refused: %s', async (message, options) => {
    const refused = distill({ ...quiet, ...uld, teacher, outputDir: outputDir(), ...options })
    await expect(refused).rejects.toThrow(ConfigError)
    await expect(refused).rejects.toThrow(message)
  })
})
