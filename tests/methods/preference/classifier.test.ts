// Proves that classifiers of transformers load, compute the same and are saved as they were, and that a language model becomes one.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, describe, expect, test } from 'vitest'
import { ConfigError, ShapeError } from '../../../src/errors.ts'
import { Classifier } from '../../../src/models/sequenceClassification.ts'
import { AutoModelForCausalLM, type ClassifierKind } from '../../../src/models/index.ts'
import { backward, noGrad } from '../../../src/tensor/index.ts'
import { sum } from '../../../src/ops/index.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { relative } from '../../train/support.ts'

const recorded = fileURLToPath(new URL('../../recorded/preference/classifiers', import.meta.url))
const { sequences, logits } = JSON.parse(readFileSync(join(recorded, 'logits.json'), 'utf8')) as { sequences: number[][], logits: Record<string, (number[] | number[][])[]> }
const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })
const keep = <T extends { dispose(): void }>(one: T): T => { live.push(one); return one }

const kindOf = (name: string): ClassifierKind => (name.endsWith('steps') ? 'token' : 'sequence')
const run = (classifier: Classifier) => noGrad(() => classifier.kind === 'token' ? classifier.tokenLogits({ inputIds: sequences }) : classifier.forward({ inputIds: sequences })).toArray()

describe.each(Object.keys(logits))('%s', (name) => {
  test('gives the logits of transformers, and again once saved; config.json and tensors keep their names', async () => {
    const wanted = logits[name]!.flat(2)
    const exact = keep(await Classifier.fromPretrained(join(recorded, name), { kind: kindOf(name), dtype: 'float64' }))
    // transformers computes rotary tables in float32 in any case.
    expect(relative(await run(exact), wanted)).toBeLessThan(name.startsWith('gpt2') ? 1e-12 : 1e-6)
    const classifier = keep(await Classifier.fromPretrained(join(recorded, name), { kind: kindOf(name) }))
    expect(relative(await run(classifier), wanted)).toBeLessThan(1e-5)
    const folder = temporaryFolder()
    await classifier.savePretrained(folder)
    expect(readFileSync(join(folder, 'model.safetensors')).subarray(8).toString('latin1')).toContain(name === 'gpt2-steps' ? 'classifier.weight' : 'score.weight')
    const read = (at: string) => JSON.parse(readFileSync(join(at, 'config.json'), 'utf8')) as Record<string, unknown>
    const before = read(join(recorded, name))
    expect(read(folder)).toMatchObject({ architectures: before['architectures'], ...before['id2label'] ? { id2label: before['id2label'], label2id: before['label2id'] } : { id2label: { 0: 'LABEL_0', 1: 'LABEL_1' } } })
    const again = keep(await Classifier.fromPretrained(folder, { kind: kindOf(name) }))
    expect(await run(again)).toEqual(await run(classifier))
  })
})

test.each(['llama', 'gpt2'] as const)('a language model of %s becomes a classifier with a new head, whose gradient reaches every layer', async (family) => {
  const folder = temporaryFolder()
  const base = keep(AutoModelForCausalLM.fromConfig(family === 'gpt2' ? { modelType: 'gpt2', vocabSize: 40, nEmbd: 16, nLayer: 2, nHead: 2, nPositions: 32 }
    : { modelType: 'llama', vocabSize: 40, hiddenSize: 16, intermediateSize: 24, numHiddenLayers: 2, numAttentionHeads: 2, maxPositionEmbeddings: 32 }))
  await base.savePretrained(folder)
  const classifier = keep(await Classifier.fromPretrained(folder, { id2label: ['no', 'yes'], seed: 5, padTokenId: 3 }))
  expect(classifier.labels).toEqual(['no', 'yes'])
  expect([...classifier.model.everyName()].map(([name]) => name).filter((name) => /lm_head|score/.test(name))).toEqual(['score.weight'])
  const output = classifier.forward({ inputIds: sequences })
  expect(output.shape).toEqual([3, 2])
  backward(sum(output))
  for (const [name, { grad }] of classifier.model.namedParameters()) expect(grad, name).not.toBeNull()
  const twin = keep(await Classifier.fromPretrained(folder, { numLabels: 2, seed: 5 }))
  expect(await run(twin)).toEqual(await run(classifier))
  const saved = temporaryFolder()
  await classifier.savePretrained(saved)
  expect(JSON.parse(readFileSync(join(saved, 'config.json'), 'utf8'))).toMatchObject({ pad_token_id: 3, id2label: { 0: 'no', 1: 'yes' }, architectures: [family === 'gpt2' ? 'GPT2ForSequenceClassification' : 'LlamaForSequenceClassification'] })
})

test('a result does not depend on the others of the batch', async () => {
  const classifier = keep(await Classifier.fromPretrained(join(recorded, 'llama-three')))
  const alone = await Promise.all(sequences.map((one) => classifier.forward({ inputIds: [one] }).toArray()))
  expect(alone.flat()).toEqual(await run(classifier))
  const padded = sequences.map((one) => [...one, ...Array.from({ length: 6 - one.length }, () => 0)])
  const masked = await classifier.forward({ inputIds: padded, attentionMask: sequences.map((one) => Array.from({ length: 6 }, (_, t) => Number(t < one.length))) }).toArray()
  expect(masked).toEqual(alone.flat())
})

test('says what does not fit', async () => {
  await expect(Classifier.fromPretrained(join(recorded, 'llama-three'), { numLabels: 1 })).rejects.toThrow(/expected 1 label, got 3: bad, fair, good/)
  await expect(Classifier.fromPretrained(join(recorded, 'llama-steps'))).rejects.toThrow(/expected a model ForSequenceClassification, or a language model, got "LlamaForTokenClassification"/)
  await expect(Classifier.fromPretrained(join(recorded, 'llama-steps'))).rejects.toThrow(ConfigError)
  const classifier = keep(await Classifier.fromPretrained(join(recorded, 'llama-reward')))
  expect(() => classifier.forward({ inputIds: [[1, 2], []] })).toThrow(ShapeError)
})
