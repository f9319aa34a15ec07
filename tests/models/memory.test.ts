// Proves that the memory estimate is within 10 % of what a training step takes.
import { describe, expect, test } from 'vitest'
import { AutoModelForCausalLM, createConfig, memoryEstimate } from '../../src/models/index.ts'
import { backward, cpu, scope } from '../../src/tensor/index.ts'

const sizes = { vocabSize: 96, hiddenSize: 64, numHiddenLayers: 4, numAttentionHeads: 4, maxPositionEmbeddings: 512 }
const models = {
  llama: createConfig({ modelType: 'llama', ...sizes, intermediateSize: 176, numKeyValueHeads: 2 }),
  qwen3: createConfig({ modelType: 'qwen3', ...sizes, intermediateSize: 128, numKeyValueHeads: 2, headDim: 32 }),
  gpt2: createConfig({ modelType: 'gpt2', ...sizes, attnPdrop: 0 }),
  'gpt2 with attention dropout': createConfig({ modelType: 'gpt2', ...sizes }),
}
const ids = Array.from({ length: 4 }, (_, i) => Array.from({ length: 128 }, (_, t) => (7 * t + 13 * i) % 96))

describe.each(Object.entries(models))('%s', (_, config) => {
  test.each([['float32', false], ['float32', true], ['bfloat16', false]] as const)('in %s, checkpointing %s', (dtype, gradientCheckpointing) => {
    using model = AutoModelForCausalLM.fromConfig(config, { dtype })
    model.train()
    model.gradientCheckpointing = gradientCheckpointing
    const step = () => { scope(() => { backward(model.forward({ inputIds: ids, labels: ids }).loss!) }) }
    const estimate = memoryEstimate(config, { dtype, tokens: 512, sequenceLength: 128, gradientCheckpointing })
    step()
    const before = cpu.memory().live
    cpu.resetPeakMemory()
    step()
    const measured = cpu.memory().peak - before
    expect(Math.abs(estimate.activations / measured - 1)).toBeLessThan(0.1)
    expect(estimate.weights).toBe(model.numParameters() * (dtype === 'bfloat16' ? 2 : 4))
  })
})
