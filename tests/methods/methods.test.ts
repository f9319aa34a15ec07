// Proves pretrain() and sft() from files to a saved model that loads, generates and knows what it was taught.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { ConfigError, DataError } from '../../src/errors.ts'
import { generate } from '../../src/generate/index.ts'
import { pretrain, sft, type PreparedRun, type SftOptions } from '../../src/methods/index.ts'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { Tokenizer } from '../../src/tokenizers/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { weightsHash, weightsOf } from '../train/support.ts'
import { conversations, makeModel, makeTokenizer, modelConfig, pairs, sentences, writeRows } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

const keep = (run: PreparedRun): PreparedRun => { live.push(run, run.model); return run }
const quiet = { cacheDir: false, reportTo: [], saveStrategy: 'no' } satisfies Partial<SftOptions>

/** The saved model and tokenizer. */
async function load(folder: string) {
  const model = await AutoModelForCausalLM.fromPretrained(folder)
  live.push(model)
  return { model, tokenizer: await Tokenizer.fromPretrained(folder) }
}

describe('pretrain', () => {
  test('from scratch on text files: the loss falls, and what is saved loads and speaks', async () => {
    const folder = temporaryFolder()
    await makeTokenizer(join(folder, 'tokenizer'))
    writeFileSync(join(folder, 'a.txt'), sentences.slice(0, 60).join('\n'))
    writeFileSync(join(folder, 'b.md'), sentences.slice(60).join('\n'))
    const outputDir = join(folder, 'out')
    const run = keep(await pretrain({
      ...quiet, tokenizer: join(folder, 'tokenizer'), files: [join(folder, '*.txt'), join(folder, '*.md')], sampleBy: 'line', modelConfig, outputDir, maxLength: 64, evalSplit: 0.1,
      perDeviceTrainBatchSize: 4, numTrainEpochs: 6, learningRate: 1e-2, evalStrategy: 'epoch', warmupRatio: 0.1, lrSchedulerType: 'cosine',
    }))
    const before = await run.trainer.evaluate()
    const result = await run.train()
    expect(result.reason).toBe('finished')
    expect(result.evaluation!['loss']).toBeLessThan(before['loss']! / 2)
    const { model, tokenizer } = await load(outputDir)
    expect(await weightsHash(model)).toBe(await weightsHash(run.model))
    expect(model.config).toMatchObject({ vocabSize: tokenizer.embeddingRows, maxPositionEmbeddings: 64, tieWordEmbeddings: true })
    const [output] = await generate(model, tokenizer, ['the cat'], { maxNewTokens: 12 })
    expect(output!.text).toMatch(/^ (sees|likes|finds|hears|follows) /)
  })

  test('goes on from a model folder', async () => {
    const folder = temporaryFolder()
    await makeModel(join(folder, 'model'))
    const files = writeRows(join(folder, 'text.jsonl'), sentences.map((text) => ({ text })))
    const run = keep(await pretrain({ ...quiet, model: join(folder, 'model'), files, outputDir: join(folder, 'out'), maxLength: 64, maxSteps: 2 }))
    expect(await run.train()).toMatchObject({ reason: 'finished', step: 2 })
  })

  test.each<[string, Parameters<typeof pretrain>[0]]>([
    ['model: give a model folder to continue from, or modelConfig for a new model', { tokenizer: '', outputDir: 'x' }],
    ['model and modelConfig: give model to continue, or modelConfig to start from scratch, not both', { model: '', modelConfig, outputDir: 'x' }],
    ['files: name the training data', { model: '', outputDir: 'x', maxLength: 64 }],
    ['maxLength: 4096 is more than the model\'s 96 positions', { model: '', outputDir: 'x', maxLength: 4096 }],
  ])('says "%s"', async (message, options) => {
    const folder = temporaryFolder()
    await makeModel(folder)
    const filled = { ...options, ...('model' in options ? { model: folder } : {}), ...('tokenizer' in options ? { tokenizer: folder } : {}) }
    await expect(pretrain(filled)).rejects.toThrow(message)
    await expect(pretrain(filled)).rejects.toThrow(ConfigError)
  })
})

describe('sft', () => {
  const base = { ...quiet, maxLength: 64, perDeviceTrainBatchSize: 5, learningRate: 1e-2, lrSchedulerType: 'cosine', warmupRatio: 0.1 } satisfies Partial<SftOptions>

  async function tuned(rows: readonly unknown[], options: Partial<SftOptions>) {
    const folder = temporaryFolder()
    await makeModel(join(folder, 'model'))
    const run = keep(await sft({ ...base, model: join(folder, 'model'), files: writeRows(join(folder, 'train.jsonl'), rows), outputDir: join(folder, 'out'), ...options }))
    const result = await run.train()
    return { run, result, folder, ...await load(join(folder, 'out')) }
  }

  test('on conversations, trained on the assistant only: it learns to answer', async () => {
    // One answer a question, so that there is something to know.
    const known = conversations.filter((_, i) => i % 6 === 0)
    const { model, tokenizer, run } = await tuned(known, { assistantOnlyLoss: true, numTrainEpochs: 40 })
    const { stats } = run.data
    expect(stats.trainedShare).toBeGreaterThan(0.1)
    expect(stats.trainedShare).toBeLessThan(0.6)
    const answers = await generate(model, tokenizer, known.map(({ messages }) => messages.slice(0, 1)), { maxNewTokens: 30 })
    expect(answers.map(({ text }) => text.trim())).toEqual(known.map(({ messages }) => messages[1]!.content))
  })

  test('on prompts and completions: only completions are trained unless told otherwise', async () => {
    const known = pairs.filter((_, i) => i % 6 === 0)
    const { model, tokenizer, run } = await tuned(known, { numTrainEpochs: 40 })
    const answers = await generate(model, tokenizer, known.map(({ prompt }) => prompt), { maxNewTokens: 20 })
    expect(answers.map(({ text }) => text)).toEqual(known.map(({ completion }) => completion))
    const { run: whole } = await tuned(known, { completionOnlyLoss: false, maxSteps: 1 })
    expect(whole.data.stats.trainedTokens).toBeGreaterThan(run.data.stats.trainedTokens * 1.5)
  })

  test('on texts, packed', async () => {
    const { result, run } = await tuned(sentences.map((text) => ({ text })), { packing: true, numTrainEpochs: 5, evalSplit: 20, evalStrategy: 'epoch', samplePrompts: ['a dog'] })
    expect(run.data.stats.packingDensity).toBeGreaterThan(0.7)
    expect(result.evaluation!['loss']).toBeLessThan(2.5)
  })

  test('freeze and trainable choose by name; frozen bytes stay', async () => {
    const { run, folder, model } = await tuned(pairs, { maxSteps: 3, trainable: ['model.layers.*'], freeze: ['model.layers.0', '*.mlp.*'] })
    const before = AutoModelForCausalLM.fromPretrained(join(folder, 'model'))
    live.push(await before)
    const old = await weightsOf(await before)
    for (const [name, values] of await weightsOf(model)) {
      const isTrained = name.startsWith('model.layers.1.') && !name.includes('.mlp.')
      expect(run.model.getParameter(name).requiresGrad, name).toBe(isTrained)
      expect(Buffer.compare(Buffer.from(values.buffer), Buffer.from(old.get(name)!.buffer)) === 0, name).toBe(!isTrained)
    }
  })

  test('stopped and resumed from the cache, it ends with the same bytes; the final model is written only at the end', async () => {
    const whole = await tuned(pairs, { maxSteps: 8 })
    const folder = temporaryFolder()
    await makeModel(join(folder, 'model'))
    const options = { ...base, model: join(folder, 'model'), files: writeRows(join(folder, 'train.jsonl'), pairs), outputDir: join(folder, 'out'), cacheDir: join(folder, 'cache'), maxSteps: 8 }
    const first = keep(await sft(options))
    const controller = new AbortController()
    first.trainer.on((event) => { if (event.type === 'step' && event.step === 3) controller.abort() })
    expect(await first.train({ signal: controller.signal })).toMatchObject({ reason: 'aborted' })
    expect(readdirSync(options.outputDir)).not.toContain('model.safetensors')
    const rest = keep(await sft({ ...options, resumeFromCheckpoint: true }))
    expect(rest.data.stats.cached).toBe(true)
    expect(await rest.train()).toMatchObject({ reason: 'finished', step: 8 })
    expect(readFileSync(join(options.outputDir, 'model.safetensors')).equals(readFileSync(join(whole.folder, 'out', 'model.safetensors')))).toBe(true)
    const changed = keep(await sft({ ...options, freeze: ['model.norm'], resumeFromCheckpoint: true }))
    await expect(changed.train()).rejects.toThrow('freeze: the checkpoint')
    writeRows(options.files, pairs.slice(1))
    const other = keep(await sft({ ...options, resumeFromCheckpoint: true }))
    await expect(other.train()).rejects.toThrow('the data changed')
  })

  test.each<[string, unknown[], Partial<SftOptions>, new (...args: never[]) => Error]>([
    ['maxLength: the data has a row of', [{ text: 'the cat sees the moon. '.repeat(40) }], { maxLength: null }, ConfigError],
    ['no parameter matches model.layer.0', pairs, { freeze: ['model.layer.0'] }, ConfigError],
    ['freeze: nothing is left to train', pairs, { freeze: ['*'] }, ConfigError],
    ['learningRates: unknown option; did you mean "learningRate"?', pairs, { learningRates: 1 } as Partial<SftOptions>, ConfigError],
    ['no example is left to train on', [{ prompt: 'the cat sees the moon. '.repeat(20), completion: ' yes' }], {}, DataError],
  ])('says "%s"', async (message, rows, options, type) => {
    const folder = temporaryFolder()
    await makeModel(join(folder, 'model'))
    const failure = sft({ ...base, model: join(folder, 'model'), files: writeRows(join(folder, 'train.jsonl'), rows), outputDir: join(folder, 'out'), ...options })
    await expect(failure).rejects.toThrow(message)
    await expect(failure).rejects.toThrow(type)
  })

  test('a tokenizer with more tokens than the model has rows is refused', async () => {
    const folder = temporaryFolder()
    await makeModel(join(folder, 'model'))
    const config = JSON.parse(readFileSync(join(folder, 'model', 'config.json'), 'utf8')) as Record<string, unknown>
    writeFileSync(join(folder, 'model', 'config.json'), JSON.stringify({ ...config, vocab_size: 300 }))
    await expect(sft({ ...base, model: join(folder, 'model'), files: writeRows(join(folder, 'train.jsonl'), pairs), outputDir: join(folder, 'out') })).rejects.toThrow(/the tokenizer has ids up to \d+, but the model's embedding has 300 rows/)
  })
})
