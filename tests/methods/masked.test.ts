// Proves masked pretraining from text to a model that fills masks, its resume and its errors, and fillMask() against transformers' pipeline.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import { fillMask } from '../../src/generate/index.ts'
import { pretrain, type PretrainOptions } from '../../src/methods/index.ts'
import { AutoModelForMaskedLM } from '../../src/models/index.ts'
import { Tokenizer, trainTokenizer } from '../../src/tokenizers/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { folderOf } from '../models/recorded.ts'
import { makeModel, makeTokenizer, sentences } from './support.ts'

const live: { dispose(): void }[] = []
const keep = <T extends { dispose(): void }>(one: T): T => { live.push(one); return one }
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

const modelConfig = { modelType: 'bert', hiddenSize: 48, intermediateSize: 96, numHiddenLayers: 2, numAttentionHeads: 3, hiddenDropoutProb: 0.05, attentionProbsDropoutProb: 0 }
const base = { mlm: true, reportTo: [], saveStrategy: 'no', modelConfig, sampleBy: 'line', maxLength: 32, perDeviceTrainBatchSize: 8, learningRate: 5e-3 } satisfies Partial<PretrainOptions>

/** A folder with a WordPiece tokenizer and a text file. */
async function prepared() {
  const folder = temporaryFolder()
  const files = join(folder, 'text.txt')
  writeFileSync(files, sentences.join('\n'))
  const tokenizer = join(folder, 'tokenizer')
  await trainTokenizer({ type: 'wordpiece', files: [files], vocabSize: 150, outputDir: tokenizer })
  return { folder, given: { ...base, files, tokenizer, outputDir: join(folder, 'out'), cacheDir: join(folder, 'cache') } as const }
}

test('from scratch: the held-out loss falls, what is saved fills masks, and evaluation is the same each time', async () => {
  const { given } = await prepared()
  const run = keep(await pretrain({ ...given, evalSplit: 15, numTrainEpochs: 40, lrSchedulerType: 'cosine', warmupRatio: 0.1, samplePrompts: ['a dog [MASK] the moon.'] }))
  keep(run.model)
  const before = await run.trainer.evaluate()
  expect(await run.trainer.evaluate()).toEqual(before)
  await run.train()
  const after = await run.trainer.evaluate()
  expect(after['loss']).toBeLessThan(before['loss']! / 2)
  const model = keep(await AutoModelForMaskedLM.fromPretrained(given.outputDir))
  expect(model.config).toMatchObject({ architecture: 'BertForMaskedLM', maxPositionEmbeddings: 32, padTokenId: 0 })
  const tokenizer = await Tokenizer.fromPretrained(given.outputDir)
  const [subject] = await fillMask(model, tokenizer, 'the old [MASK] sees the moon.', { topK: 1 })
  expect(subject![0]).toMatchObject({ tokenStr: 'king', sequence: 'the old king sees the moon.' })
  expect(subject![0]!.score).toBeGreaterThan(0.5)
})

test('stopped and resumed, it ends with the same bytes; other masking is refused', async () => {
  const { folder, given } = await prepared()
  const options = { ...given, maxSteps: 8, gradientAccumulationSteps: 2, wholeWordMask: true } as const
  const whole = keep(await pretrain(options))
  keep(whole.model)
  await whole.train()
  const again = { ...options, outputDir: join(folder, 'again') }
  const first = keep(await pretrain(again))
  keep(first.model)
  const controller = new AbortController()
  first.trainer.on((event) => { if (event.type === 'step' && event.step === 3) controller.abort() })
  expect(await first.train({ signal: controller.signal })).toMatchObject({ reason: 'aborted' })
  const rest = keep(await pretrain({ ...again, resumeFromCheckpoint: true }))
  keep(rest.model)
  expect(await rest.train()).toMatchObject({ reason: 'finished', step: 8 })
  expect(readFileSync(join(again.outputDir, 'model.safetensors')).equals(readFileSync(join(options.outputDir, 'model.safetensors')))).toBe(true)
  const changed = keep(await pretrain({ ...again, mlmProbability: 0.3, resumeFromCheckpoint: true }))
  keep(changed.model)
  await expect(changed.train()).rejects.toThrow('mlmProbability: the checkpoint')
})

test('goes on from a RoBERTa folder; rows of 1 × 4 give the first loss of 4 × 1', async () => {
  const { folder, given } = await prepared()
  const roberta = keep(AutoModelForMaskedLM.fromConfig({ ...modelConfig, hiddenDropoutProb: 0, modelType: 'roberta', vocabSize: 150, maxPositionEmbeddings: 34, padTokenId: 0 }, { seed: 3 }))
  await roberta.savePretrained(join(folder, 'model'))
  const { modelConfig: _, ...options } = given
  const losses: number[] = []
  for (const [batch, accumulation] of [[4, 1], [1, 4]] as const) {
    const run = keep(await pretrain({ ...options, model: join(folder, 'model'), perDeviceTrainBatchSize: batch, gradientAccumulationSteps: accumulation, maxSteps: 1, loggingSteps: 1 }))
    keep(run.model)
    run.trainer.on((event) => { if (event.type === 'log' && 'loss' in event.metrics) losses.push(event.metrics['loss']) })
    await run.train()
  }
  expect(losses).toHaveLength(2)
  expect(Math.abs(losses[0]! / losses[1]! - 1)).toBeLessThan(1e-6)
})

describe('fillMask', () => {
  interface Recorded { text: string, ids: number[], masks: { score: number, token: number, token_str: string, sequence: string }[][] }
  const recorded = JSON.parse(readFileSync(join(folderOf('bert'), 'fillMask.json'), 'utf8')) as Recorded[]

  test('calls that overlap leave the model in its mode', async () => {
    const model = keep(await AutoModelForMaskedLM.fromPretrained(folderOf('bert')))
    const tokenizer = await Tokenizer.fromPretrained(folderOf('bert'))
    model.train()
    await Promise.all(['the [MASK] cat', 'a [MASK]'].map((text) => fillMask(model, tokenizer, text)))
    expect(model.training).toBe(true)
  })

  test.each(recorded.map((one) => [one.text, one] as const))('says what the pipeline says: %s', async (text, { ids, masks }) => {
    const model = keep(await AutoModelForMaskedLM.fromPretrained(folderOf('bert')))
    const tokenizer = await Tokenizer.fromPretrained(folderOf('bert'))
    expect(tokenizer.encode(text)).toEqual(ids)
    const found = await fillMask(model, tokenizer, text, { topK: 4 })
    expect(found.map((mask) => mask.map(({ token, tokenStr, sequence }) => ({ token, tokenStr, sequence })))).toEqual(masks.map((mask) => mask.map(({ token, token_str: tokenStr, sequence }) => ({ token, tokenStr, sequence }))))
    for (const [i, mask] of found.entries()) for (const [j, { score }] of mask.entries()) expect(Math.abs(score / masks[i]![j]!.score - 1)).toBeLessThan(1e-4)
  })

  test('a text without a mask is named', async () => {
    const model = keep(await AutoModelForMaskedLM.fromPretrained(folderOf('bert')))
    await expect(fillMask(model, await Tokenizer.fromPretrained(folderOf('bert')), 'the cat')).rejects.toThrow('expected a text with "[MASK]", got "the cat"')
  })
})

test('models, tokenizers and options that do not fit are named', async () => {
  const { folder, given } = await prepared()
  await makeTokenizer(join(folder, 'bpe'))
  await makeModel(join(folder, 'llama'))
  const { modelConfig: _, ...rest } = given
  const refused = (options: Partial<PretrainOptions>): Promise<unknown> => pretrain({ ...rest, ...options, mlm: true })
  await expect(refused({ modelConfig, tokenizer: join(folder, 'bpe') })).rejects.toThrow('mlm: the tokenizer has no mask token')
  await expect(refused({ model: join(folder, 'llama') })).rejects.toThrow(/llama is a causal language model, which cannot see the tokens after a mask/)
  await expect(refused({ modelConfig: { modelType: 'llama', hiddenSize: 32 } })).rejects.toThrow(ConfigError)
  await expect(refused({ modelConfig, maskReplaceProb: 0.8, randomReplaceProb: 0.3 })).rejects.toThrow('maskReplaceProb, randomReplaceProb: expected at most 1 together')
  await expect(refused({ modelConfig: { ...modelConfig, maxPositionEmbeddings: 16 } })).rejects.toThrow("maxLength: 32 is more than the model's 16 positions")
  await expect(refused({ model: folderOf('bert'), tokenizer: folderOf('bert'), quantize: 'nf4', maxLength: 24 })).rejects.toThrow('quantize: an encoder is trained in full precision')
  await expect(pretrain({ ...rest, mlm: false, model: folderOf('bert') })).rejects.toThrow(/bert is an encoder, which predicts masked tokens/)
  await expect(pretrain({ ...rest, mlm: false, wholeWordMask: true, model: join(folder, 'llama') })).rejects.toThrow('wholeWordMask: only masked language models have it')
})
