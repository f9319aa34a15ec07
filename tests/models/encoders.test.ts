// Proves that encoders compute what transformers computes: logits, loss, gradients and an AdamW training of masked language models and classifiers.
import { readFileSync } from 'node:fs'
import { afterEach, describe, expect, test } from 'vitest'
import { ConfigError, ShapeError } from '../../src/errors.ts'
import {
  AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification, classificationLoss, type ClassificationLabels,
  type EncoderInput, type MaskedLanguageModel, type PretrainedModel, type ProblemType,
} from '../../src/models/index.ts'
import { backward, manualSeed, scope, Tensor, unscoped } from '../../src/tensor/index.ts'
import { distance, folderOf } from './recorded.ts'

interface Trained { loss: number, gradientNorms: Record<string, number>, adamwLosses: number[] }
interface Masked extends Trained {
  inputIds: number[][]
  tokenTypeIds?: number[][]
  labels: number[][]
  logits: { sequence: number, position: number, values: number[] }[]
  hiddenStates: number[][]
  attentions: number[][]
  lastHiddenState: number[]
}
interface Classified {
  inputIds: number[][]
  tokenTypeIds?: number[][]
  logits: number[][]
  problems: Record<ProblemType, Trained & { labels: ClassificationLabels }>
}

const read = (name: string): unknown => JSON.parse(readFileSync(`${folderOf(name)}/expected.json`, 'utf8'))
const live: { dispose(): void }[] = []
const keep = <T extends { dispose(): void }>(one: T): T => { live.push(one); return one }
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

const rowOf = (ids: number[][], sequence: number, position: number) => ids.slice(0, sequence).reduce((sum, one) => sum + one.length, 0) + position
const batchOf = ({ inputIds, tokenTypeIds }: { inputIds: number[][], tokenTypeIds?: number[][] }): EncoderInput => ({ inputIds, ...(tokenTypeIds ? { tokenTypeIds } : {}) })

/** The loss, with gradients left in the parameters. */
async function backwardOf(loss: () => Tensor): Promise<number> {
  const value = scope(() => {
    const result = loss()
    backward(result)
    return result
  })
  return await value.item()
}

/** Loss and gradient norms, then 20 steps of AdamW as PyTorch's: learning rate 1e-3, weight decay 0.01 on everything. */
async function expectTraining(model: PretrainedModel, loss: () => Tensor, expected: Trained): Promise<void> {
  const states = new Map<string, [Tensor, Tensor]>()
  for (const [i, wanted] of expected.adamwLosses.entries()) {
    const value = await backwardOf(loss)
    expect(Math.abs(value / wanted - 1), `step ${i}`).toBeLessThan(1e-4)
    if (i === 0) {
      expect(Math.abs(value / expected.loss - 1)).toBeLessThan(1e-5)
      expect([...model.namedParameters()].map(([name]) => name).sort()).toEqual(Object.keys(expected.gradientNorms).sort())
      for (const [name, parameter] of model.namedParameters()) {
        const gradient = await parameter.grad!.data() as Float32Array
        const norm = Math.sqrt(gradient.reduce((sum, g) => sum + g * g, 0))
        // The key's bias moves all scores of a query alike: its gradient is 0 but for rounding.
        const rounding = name.endsWith('self.key.bias') ? 1e-5 : 1e-7
        expect(Math.abs(norm - expected.gradientNorms[name]!), name).toBeLessThan(1e-4 * expected.gradientNorms[name]! + rounding)
      }
    }
    for (const [name, parameter] of model.namedParameters()) {
      const [first, second] = states.get(name) ?? unscoped((): [Tensor, Tensor] => [keep(Tensor.zeros(parameter.shape)), keep(Tensor.zeros(parameter.shape))])
      states.set(name, [first, second])
      parameter.device.kernels.adamw([parameter.tensor.handle], [first.handle], [second.handle], [], [parameter.grad!.handle], 0, [1e-3], 0.9, 0.999, 1e-8, [0.01], i + 1)
    }
    model.zeroGrad()
  }
}

describe.each(['bert', 'roberta'])('%s', (name) => {
  const recorded = read(name) as Masked
  const { inputIds, labels } = recorded
  const load = async (): Promise<MaskedLanguageModel> => keep(await AutoModelForMaskedLM.fromPretrained(folderOf(name)))

  test.each([['float32', 2e-5], ['bfloat16', 0.04]] as const)('logits in %s', async (dtype, tolerance) => {
    const model = keep(await AutoModelForMaskedLM.fromPretrained(folderOf(name), { dtype }))
    const values = await model.forward(batchOf(recorded)).logits!.data() as Float32Array
    const { vocabSize } = model.config
    for (const { sequence, position, values: expected } of recorded.logits) {
      const row = rowOf(inputIds, sequence, position)
      expect(distance(values.subarray(row * vocabSize, (row + 1) * vocabSize), expected)).toBeLessThan(tolerance)
    }
  })

  test('hidden states and attentions', async () => {
    const model = await load()
    const { hiddenStates, attentions } = model.forward({ ...batchOf(recorded), outputHiddenStates: true, outputAttentions: true })
    const row = rowOf(inputIds, 1, 19)
    for (const [i, states] of hiddenStates!.entries()) {
      const values = await states.data() as Float32Array
      expect(distance(values.subarray(row * 32, (row + 1) * 32), recorded.hiddenStates[i]!)).toBeLessThan(2e-5)
    }
    for (const [i, layer] of attentions!.entries()) {
      const values = await layer[1]!.data() as Float32Array
      expect(distance(values.subarray(-20), recorded.attentions[i]!)).toBeLessThan(2e-5)
    }
  })

  test('loss, gradients and 20 steps of AdamW', async () => {
    const model = await load()
    await expectTraining(model, () => model.forward({ ...batchOf(recorded), labels }).loss!, recorded)
  })

  test('recomputed layers give the same gradients', async () => {
    const gradients = async (recompute: boolean): Promise<number[]> => {
      const model = (await load()).train()
      if (recompute) model.gradientCheckpointingEnable()
      manualSeed(5)
      await backwardOf(() => model.forward({ ...batchOf(recorded), labels }).loss!)
      return Array.from(await model.getParameter(`${name}.encoder.layer.0.attention.self.query.weight`).grad!.data(), Number)
    }
    expect(await gradients(true)).toEqual(await gradients(false))
  })

  test('padding, a batch and a sequence alone give the same logits', async () => {
    const model = await load()
    const all = await model.forward(batchOf(recorded)).logits!.toArray()
    const padded = inputIds.map((ids) => [...ids, ...Array.from({ length: 20 - ids.length }, () => 1)])
    const attentionMask = inputIds.map((ids) => Array.from({ length: 20 }, (_, t) => (t < ids.length ? 1 : 0)))
    const { tokenTypeIds } = recorded
    const types = tokenTypeIds ? { tokenTypeIds: tokenTypeIds.map((ids) => [...ids, ...Array.from({ length: 20 - ids.length }, () => 0)]) } : {}
    expect(await model.forward({ inputIds: padded, attentionMask, ...types }).logits!.toArray()).toEqual(all)
    const alone = await model.forward({ inputIds: [inputIds[0]!], ...(tokenTypeIds ? { tokenTypeIds: [tokenTypeIds[0]!] } : {}) }).logits!.toArray()
    expect(alone).toEqual(all.slice(0, alone.length))
  })

  test('the base model reads the checkpoint; its pooler is new', async () => {
    const model = keep(await AutoModel.fromPretrained(folderOf(name)))
    const { lastHiddenState, poolerOutput } = model.forward(batchOf(recorded))
    const values = await lastHiddenState.data() as Float32Array
    const row = rowOf(inputIds, 1, 3)
    expect(distance(values.subarray(row * 32, (row + 1) * 32), recorded.lastHiddenState)).toBeLessThan(2e-5)
    expect(poolerOutput!.shape).toEqual([3, 32])
  })

  test('what is wrong is named', async () => {
    const model = await load()
    expect(() => model.forward({ inputIds: [Array.from({ length: 25 }, () => 7)] })).toThrow(/positionIds: expected positions below 24/)
    expect(() => model.forward({ inputIds: [[7, 96]] })).toThrow(ShapeError)
    expect(() => model.forward({ inputIds: [[7, 8]], tokenTypeIds: [[0, 2]] })).toThrow(/tokenTypeIds/)
    await expect(AutoModelForCausalLM.fromPretrained(folderOf(name))).rejects.toThrow(/is an encoder, which predicts masked tokens/)
    await expect(AutoModelForMaskedLM.fromPretrained(folderOf('llama2'))).rejects.toThrow(ConfigError)
  })
})

describe.each(['bert-classifier', 'roberta-classifier'])('%s', (name) => {
  const recorded = read(name) as Classified

  test('logits', async () => {
    const classifier = keep(await AutoModelForSequenceClassification.fromPretrained(folderOf(name)))
    expect(classifier.labels).toEqual(['LABEL_0', 'LABEL_1', 'LABEL_2'])
    expect(distance(await classifier.forward(batchOf(recorded)).toArray(), recorded.logits.flat())).toBeLessThan(2e-5)
  })

  test.each(Object.keys(recorded.problems) as ProblemType[])('loss, gradients and 20 steps of AdamW: %s', async (problemType) => {
    const classifier = keep(await AutoModelForSequenceClassification.fromPretrained(folderOf(name)))
    const expected = recorded.problems[problemType]
    await expectTraining(classifier.model, () => classificationLoss(classifier.forward(batchOf(recorded)), expected.labels, problemType), expected)
  })
})

test('bert-tokens: logits of each token', async () => {
  const recorded = read('bert-tokens') as Classified
  const classifier = keep(await AutoModelForTokenClassification.fromPretrained(folderOf('bert-tokens')))
  expect(distance(await classifier.tokenLogits({ inputIds: recorded.inputIds }).toArray(), recorded.logits.flat())).toBeLessThan(2e-5)
})

test('the gradient of several labels at logits of 0 is σ(0) - y', async () => {
  const logits = Tensor.from(new Float32Array([0, 0]), [1, 2])
  logits.requiresGrad = true
  backward(classificationLoss(logits, [[1, 0]], 'multi_label_classification'))
  expect(await logits.grad!.toArray()).toEqual([-0.25, 0.25])
})

test('a masked language model becomes a classifier with a new head; labels that do not fit are named', async () => {
  const classifier = keep(await AutoModelForSequenceClassification.fromPretrained(folderOf('bert'), { id2label: ['no', 'yes'] }))
  const logits = classifier.forward({ inputIds: [[5, 6, 7], [8, 9]] })
  expect(logits.shape).toEqual([2, 2])
  expect(classifier.model.config).toMatchObject({ architecture: 'BertForSequenceClassification' })
  expect(() => classificationLoss(logits, [0, 2], 'single_label_classification')).toThrow(/labels\[1\]: expected a class from 0 to 1, got 2/)
  expect(() => classificationLoss(logits, [[0, 1]], 'multi_label_classification')).toThrow(/labels: expected 2, one for each sequence, got 1/)
  expect(() => classificationLoss(logits, [[0], [1]], 'multi_label_classification')).toThrow(/labels\[0\]: expected 2 numbers/)
})
