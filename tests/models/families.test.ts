// Proves that every family computes what transformers computes: logits, loss, gradients, an AdamW training and greedy continuations.
import { afterEach, describe, expect, test } from 'vitest'
import { AutoModelForCausalLM, KeyValueCache, type CausalLanguageModel } from '../../src/models/index.ts'
import { selectiveLogSoftmax } from '../../src/ops/index.ts'
import { backward, scope, Tensor, unscoped } from '../../src/tensor/index.ts'
import { distance, everyModel, type Recorded } from './recorded.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

async function load(folder: string, recorded: Recorded, dtype: 'float32' | 'bfloat16' = 'float32'): Promise<CausalLanguageModel> {
  const model = await AutoModelForCausalLM.fromPretrained(folder, { config: recorded.config, dtype })
  live.push(model)
  return model
}

/** The row of a token among all tokens of the batch. */
const rowOf = (ids: number[][], sequence: number, position: number) => ids.slice(0, sequence).reduce((sum, one) => sum + one.length, 0) + position

/** AdamW as PyTorch's: learning rate 1e-3, weight decay 0.01 on everything. */
class AdamW {
  readonly states = new Map<string, { first: Tensor, second: Tensor }>()
  step(model: CausalLanguageModel, step: number): void {
    for (const [name, parameter] of model.namedParameters()) {
      let state = this.states.get(name)
      if (!state) {
        state = unscoped(() => ({ first: Tensor.zeros(parameter.shape), second: Tensor.zeros(parameter.shape) }))
        this.states.set(name, state)
        live.push(state.first, state.second)
      }
      parameter.device.kernels.adamw([parameter.tensor.handle], [state.first.handle], [state.second.handle], [], [parameter.grad!.handle], 0, [1e-3], 0.9, 0.999, 1e-8, [0.01], step)
    }
    model.zeroGrad()
  }
}

describe.each(everyModel)('%s', (_, folder, recorded) => {
  const { inputIds, labels } = recorded

  test('logits', async () => {
    const model = await load(folder, recorded)
    const { logits } = model.forward({ inputIds })
    const values = await logits!.data() as Float32Array
    const vocabulary = model.config.vocabSize
    for (const { sequence, position, values: expected } of recorded.logits) {
      const row = rowOf(inputIds, sequence, position)
      expect(distance(values.subarray(row * vocabulary, (row + 1) * vocabulary), expected)).toBeLessThan(2e-5)
    }
  })

  test('logits in bfloat16, as far as 8 bits go', async () => {
    const model = await load(folder, recorded, 'bfloat16')
    const values = await model.forward({ inputIds }).logits!.data() as Float32Array
    const vocabulary = model.config.vocabSize
    for (const { sequence, position, values: expected } of recorded.logits) {
      const row = rowOf(inputIds, sequence, position)
      expect(distance(values.subarray(row * vocabulary, (row + 1) * vocabulary), expected)).toBeLessThan(0.04)
    }
  })

  test('loss and gradient norms', async () => {
    const model = await load(folder, recorded)
    const loss = scope(() => {
      const { loss } = model.forward({ inputIds, labels })
      backward(loss!)
      return loss!
    })
    expect(Math.abs(await loss.item() / recorded.loss - 1)).toBeLessThan(1e-5)
    expect([...model.namedParameters()].map(([name]) => name).sort()).toEqual(Object.keys(recorded.gradientNorms).sort())
    for (const [name, parameter] of model.namedParameters()) {
      const gradient = await parameter.grad!.data() as Float32Array
      const norm = Math.sqrt(gradient.reduce((sum, g) => sum + g * g, 0))
      expect(Math.abs(norm - recorded.gradientNorms[name]!), name).toBeLessThan(1e-4 * recorded.gradientNorms[name]! + 1e-7)
    }
  })

  test('20 steps of AdamW', async () => {
    const model = await load(folder, recorded)
    const optimizer = new AdamW()
    const losses: number[] = []
    for (let step = 1; step <= 20; step++) {
      const loss = scope(() => {
        const { loss } = model.forward({ inputIds, labels })
        backward(loss!)
        return loss!
      })
      optimizer.step(model, step)
      losses.push(await loss.item())
    }
    losses.forEach((loss, i) => { expect(Math.abs(loss / recorded.adamwLosses[i]! - 1), `step ${i}`).toBeLessThan(1e-4) })
    expect(losses.at(-1)).toBeLessThan(losses[0]! - 0.5)
  })

  test('greedy continuation through the cache', async () => {
    const model = await load(folder, recorded)
    const cache = new KeyValueCache(model.config, { slots: 64 })
    live.push(cache)
    const sequence = cache.allocate(64)
    let next = recorded.prompt
    const tokens: number[] = []
    while (tokens.length < recorded.greedy.length) {
      const { logits } = model.forward({ inputIds: [next], cache, cacheSequences: [sequence], logitsToKeep: 1 })
      const values = await logits!.data() as Float32Array
      const best = values.indexOf(values.reduce((a, b) => Math.max(a, b)))
      tokens.push(best)
      next = [best]
    }
    expect(tokens).toEqual(recorded.greedy)
  })

  // Dynamic NTK and LongRoPE turn early keys otherwise once the sequence is long, here as in transformers.
  const dependsOnLength = ['dynamic', 'longrope'].includes((recorded.config.rope_parameters as { rope_type?: string } | undefined)?.rope_type ?? '')
  if (!dependsOnLength) test.each(['float32', 'bfloat16'] as const)('log-probabilities while decoding are those of the whole sequence, bit for bit, in %s', async (dtype) => {
    const model = await load(folder, recorded, dtype)
    const cache = new KeyValueCache(model.config, { slots: 64, dtype })
    live.push(cache)
    const cacheSequences = [cache.allocate(64)]
    const { prompt, greedy } = recorded
    const decoded: number[] = []
    for (const [i, token] of greedy.entries()) {
      const { logits } = model.forward({ inputIds: [i === 0 ? prompt : [greedy[i - 1]!]], cache, cacheSequences, logitsToKeep: 1 })
      decoded.push(await selectiveLogSoftmax(logits!, Tensor.from(Int32Array.of(token))).logprob.item())
    }
    const whole = await model.logprobs({ inputIds: [[...prompt, ...greedy]] }).logprob.toArray()
    expect(decoded).toEqual(whole.slice(prompt.length - 1, -1))
  })
})
