// Proves that the gradient of every kind of adapter is the slope of the loss: central differences along the gradient.
import { afterEach, expect, test } from 'vitest'
import { addAdapter, type AdapterInput } from '../../src/adapters/index.ts'
import { AutoModelForCausalLM, quantizeLayers, resolveQuantization, type CausalLanguageModel } from '../../src/models/index.ts'
import { add, mul } from '../../src/ops/index.ts'
import { backward, noGrad, scope, Tensor, unscoped } from '../../src/tensor/index.ts'
import { folderOf } from '../models/recorded.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

const batch = { inputIds: [[5, 9, 12, 40, 41, 3, 77], [7, 8, 30]], labels: [[5, 9, 12, 40, 41, 3, 77], [7, 8, 30]] }

/** The loss with each of the tensors in its parameter's place. */
async function lossAt(model: CausalLanguageModel, values: readonly Tensor[]): Promise<number> {
  trained(model).forEach((parameter, i) => { parameter.replace(values[i]!) })
  const pending: Promise<number>[] = []
  scope(() => { noGrad(() => { pending.push(model.forward(batch).loss!.item()) }) })
  return pending[0]!
}

const trained = (model: CausalLanguageModel) => model.parameters().filter(({ requiresGrad }) => requiresGrad)

const all: AdapterInput = { type: 'lora', targetModules: 'all-linear', r: 4, initLoraWeights: false }

test.each<[string, string, AdapterInput, boolean]>([
  ['LoRA', 'qwen2', all, false],
  ['LoRA over four bits', 'llama2', all, true],
  ['LoRA of an embedding and whole modules', 'llama2', { type: 'lora', r: 4, targetModules: ['embed_tokens', 'q_proj'], modulesToSave: ['lm_head'], bias: 'all' }, false],
  ['DoRA', 'gpt2', { ...all, useDora: true }, false],
  ['DoRA over four bits', 'llama2', { ...all, useDora: true }, true],
  ['IA3', 'qwen2', { type: 'ia3' }, false],
  ['Houlsby', 'llama2', { type: 'bottleneck', reductionFactor: 4, nonLinearity: 'gelu' }, false],
  ['Pfeiffer', 'gpt2', { type: 'bottleneck', architecture: 'pfeiffer', reductionFactor: 4, nonLinearity: 'silu', scaling: 0.5 }, false],
  ['BitFit', 'gpt2', { type: 'bitfit' }, false],
  ['freeze', 'llama2', { type: 'freeze', freezeTrainableLayers: 1 }, false],
  ['prefix', 'llama2', { type: 'prefix', numVirtualTokens: 3, prefixProjection: true, encoderHiddenSize: 8 }, false],
  ['P-tuning', 'gpt2', { type: 'ptuning', numVirtualTokens: 3, encoderHiddenSize: 8 }, false],
])('%s', async (_, family, adapter, quantized) => {
  const model = await AutoModelForCausalLM.fromPretrained(folderOf(family))
  live.push(model)
  if (quantized) await quantizeLayers(model, resolveQuantization({ format: 'nf4', block: 32 }))
  await addAdapter(model, adapter)
  // The norm in DoRA's denominator is a constant to the gradient, so that only the row lengths' is a slope; PEFT's numbers prove that of A and B.
  if (adapter.type === 'lora' && adapter.useDora) for (const [name, parameter] of model.namedParameters()) parameter.requiresGrad = name.endsWith('lora_magnitude_vector')
  // Away from the start, where some parts are zero and have no slope.
  for (const [i, parameter] of trained(model).entries()) {
    parameter.replace(unscoped(() => scope(() => {
      const noise = Tensor.empty([...parameter.shape])
      noise.device.kernels.random_normal(noise.handle, 0, 0.05, 11, i)
      return add(parameter.tensor, noise).alias()
    })))
  }
  scope(() => { backward(model.forward(batch).loss!) })
  const gradients = trained(model).map((parameter) => unscoped(() => noGrad(() => mul(parameter.grad!, 1))))
  live.push(...gradients)
  const squared = (await Promise.all(gradients.map((gradient) => gradient.toArray()))).flat().reduce((sum, value) => sum + value * value, 0)
  expect(squared).toBeGreaterThan(0)
  const step = 0.01 / Math.sqrt(squared)
  const start = trained(model).map(({ tensor }) => unscoped(() => noGrad(() => mul(tensor, 1))))
  const moved = (by: number): Tensor[] => start.map((values, i) => unscoped(() => noGrad(() => scope(() => add(values, mul(gradients[i]!, by)).alias()))))
  const slope = (await lossAt(model, moved(step)) - await lossAt(model, moved(-step))) / (2 * step)
  live.push(...start)
  expect(Math.abs(slope / squared - 1)).toBeLessThan(0.01)
})
