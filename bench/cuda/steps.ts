// Whole steps on the device: training GPT-2 124M and layers of Llama 3 8B's shape, and decoding with a model of Qwen2.5-0.5B's shape.
import { addAdapter } from '../../src/adapters/index.ts'
import type { AdapterInput } from '../../src/adapters/index.ts'
import { AutoModelForCausalLM, createConfig, quantizeLayers, resolveQuantization } from '../../src/models/index.ts'
import type { CausalLanguageModel, ConfigOptions, QuantizeOption } from '../../src/models/index.ts'
import { GenerationEngine, resolveGenerationConfig } from '../../src/generate/index.ts'
import { groupAdvantages, policyLoss, SequenceStarts } from '../../src/ops/index.ts'
import { AdamW } from '../../src/optim/index.ts'
import { autocast } from '../../src/tensor/autocast.ts'
import { backward, scope, Tensor } from '../../src/tensor/index.ts'
import type { Device } from '../../src/tensor/index.ts'

export interface StepResult { readonly name: string; readonly seconds: number; readonly tokensPerSecond: number; readonly flops: number; readonly peakBytes: number }

const ids = (rows: number, length: number, vocabulary: number): number[][] => Array.from({ length: rows }, (_, r) => Array.from({ length }, (_, i) => (r * 31 + i * 7919) % vocabulary))

/** Operations of a training step: 6 for each weight and token, 4 for frozen ones, and attention's. */
function trainingFlops(model: CausalLanguageModel, rows: number, length: number): number {
  const { config } = model
  const table = config.kind === 'gpt2' ? config.maxPositionEmbeddings * config.hiddenSize : 0
  const trainable = model.numParameters({ onlyTrainable: true })
  const isWhole = trainable === model.numParameters()
  return (isWhole ? 6 * (trainable - table) : 4 * model.numParameters() + 2 * trainable) * rows * length + 6 * rows * length * length * config.numAttentionHeads * config.headDim * config.numHiddenLayers
}

interface Training { name: string; config: ConfigOptions; rows: number; length: number; dtype: 'float32' | 'bfloat16'; bf16: boolean; checkpointing?: boolean; lora?: AdapterInput; quantize?: QuantizeOption }

/** LoRA on every linear layer of the decoder. */
const lora: AdapterInput = { type: 'lora', targetModules: 'all-linear', r: 16 }

async function train(device: Device, { name, config, rows, length, dtype, bf16, checkpointing = false, lora: adapter, quantize }: Training, repeats: number): Promise<StepResult> {
  const model = AutoModelForCausalLM.fromConfig(createConfig(config), { device, dtype })
  if (quantize !== undefined) await quantizeLayers(model, resolveQuantization(quantize))
  if (adapter) await addAdapter(model, adapter)
  model.train()
  if (checkpointing) model.gradientCheckpointingEnable()
  const optimizer = new AdamW(model.namedParameters(), { weightDecay: 0.1 })
  const inputIds = ids(rows, length, model.config.vocabSize)
  const step = async (): Promise<void> => {
    const run = (): void => { backward(model.forward({ inputIds, labels: inputIds }).loss!) }
    scope(() => {
      if (bf16) autocast('bfloat16', run)
      else run()
    })
    await optimizer.step({ learningRate: 1e-4, maxGradNorm: 1 })
  }
  await step()
  await step()
  device.resetPeakMemory()
  let best = Infinity
  for (let i = 0; i < repeats; i++) {
    const begin = performance.now()
    await step()
    await device.fence()
    best = Math.min(best, (performance.now() - begin) / 1000)
  }
  const result = { name, seconds: best, tokensPerSecond: rows * length / best, flops: trainingFlops(model, rows, length), peakBytes: device.memory().peak }
  optimizer.dispose()
  model.dispose()
  return result
}

async function decode(device: Device, name: string, config: ConfigOptions, { sequences, prompt, tokens }: { sequences: number; prompt: number; tokens: number }): Promise<StepResult> {
  const model = AutoModelForCausalLM.fromConfig(createConfig(config), { device, dtype: 'bfloat16' })
  const engine = new GenerationEngine(model, { slots: sequences * (prompt + tokens), maxBatchSize: sequences, prefillTokens: 8192 })
  const prompts = ids(sequences, prompt, model.config.vocabSize)
  let begin = 0
  let counted = 0
  const generation = resolveGenerationConfig({ maxNewTokens: tokens, temperature: 0.8, topP: 0.95 }, {})
  await Promise.all(prompts.map((promptIds, i) => engine.submit({
    promptIds: Int32Array.from(promptIds), config: { ...generation, eosTokenIds: [] }, seed: i,
    // The first tokens come out of the prompts' pass, the second ones out of making the graph.
    onToken: () => {
      counted++
      if (counted === 3 * sequences) begin = performance.now()
    },
  })))
  const seconds = (performance.now() - begin) / 1000 / (tokens - 3)
  const flops = 2 * model.numParameters() * sequences
  const peakBytes = device.memory().peak
  engine.dispose()
  model.dispose()
  return { name, seconds, tokensPerSecond: sequences / seconds, flops, peakBytes }
}

interface Reinforcement { name: string; config: ConfigOptions; prompts: number; answers: number; prompt: number; tokens: number; repeats: number }

/** Steps of GRPO with made-up rewards: answers are drawn, and the model is trained on them by the clipped loss of their groups' advantages. */
async function reinforce(device: Device, { name, config, prompts, answers, prompt, tokens, repeats }: Reinforcement): Promise<StepResult> {
  const model = AutoModelForCausalLM.fromConfig(createConfig(config), { device, dtype: 'bfloat16' })
  const optimizer = new AdamW(model.namedParameters(), {})
  const count = prompts * answers
  const generation = { ...resolveGenerationConfig({ maxNewTokens: tokens, temperature: 1 }, {}), eosTokenIds: [] }
  const starts = ids(prompts, prompt, model.config.vocabSize)
  const step = async (seed: number): Promise<void> => {
    const engine = new GenerationEngine(model, { slots: count * (prompt + tokens), maxBatchSize: count, prefillTokens: 8192 })
    const drawn = await Promise.all(Array.from({ length: count }, (_, i) => engine.submit({ promptIds: Int32Array.from(starts[Math.floor(i / answers)]!), config: generation, seed: seed * count + i })))
    engine.dispose()
    const inputIds = drawn.map(({ tokenIds }, i) => [...starts[Math.floor(i / answers)]!, ...tokenIds])
    scope(() => {
      const make = (numbers: readonly number[]): Tensor => Tensor.from(Float32Array.from(numbers), [numbers.length], { device })
      const sequences = SequenceStarts.ofLengths(inputIds.map(({ length }) => length), device)
      const rewards = Tensor.from(Float32Array.from({ length: count }, (_, i) => Math.sin(i)), [count, 1], { device })
      const { advantages } = groupAdvantages(rewards, { groupSize: answers })
      const counted = inputIds.flatMap((row) => row.map((_, i) => i >= prompt - 1 && i < row.length - 1 ? 1 / (count * tokens) : 0))
      autocast('bfloat16', () => {
        const { logprob } = model.logprobs({ inputIds })
        backward(policyLoss(logprob, { objective: 'clip', clipLow: 0.2, clipHigh: 0.2, sequences, advantages, weights: make(counted), old: logprob.detach() }).loss)
      })
    })
    await optimizer.step({ learningRate: 1e-6, maxGradNorm: 1 })
    await device.fence()
  }
  await step(0)
  device.resetPeakMemory()
  let best = Infinity
  for (let i = 0; i < repeats; i++) {
    const begin = performance.now()
    await step(i + 1)
    best = Math.min(best, (performance.now() - begin) / 1000)
  }
  const flops = trainingFlops(model, count, prompt + tokens) * 4 / 3
  const result = { name, seconds: best, tokensPerSecond: count * tokens / best, flops, peakBytes: device.memory().peak }
  optimizer.dispose()
  model.dispose()
  return result
}

const gpt2 = { modelType: 'gpt2', vocabSize: 50257, nPositions: 1024, nEmbd: 768, nLayer: 12, nHead: 12, residPdrop: 0, embdPdrop: 0, attnPdrop: 0 }
const llamaLayers = {
  modelType: 'llama', vocabSize: 32000, hiddenSize: 4096, intermediateSize: 14336, numHiddenLayers: 4, numAttentionHeads: 32, numKeyValueHeads: 8, maxPositionEmbeddings: 8192,
  ropeTheta: 5e5, rmsNormEps: 1e-5, tieWordEmbeddings: false,
}
const qwen = {
  modelType: 'qwen2', vocabSize: 151936, hiddenSize: 896, intermediateSize: 4864, numHiddenLayers: 24, numAttentionHeads: 14, numKeyValueHeads: 2, maxPositionEmbeddings: 32768,
  ropeTheta: 1e6, tieWordEmbeddings: true, rmsNormEps: 1e-6,
}
const small = { modelType: 'llama', vocabSize: 61, hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 1, numAttentionHeads: 2, numKeyValueHeads: 1, maxPositionEmbeddings: 64 }

/** All steps, one after the other; the emulator gets models it can run. */
export async function* runSteps(device: Device, quick: boolean, filter: RegExp): AsyncGenerator<StepResult> {
  const steps: [string, (name: string) => Promise<StepResult>][] = quick ? [
    ['tiny, training', (name) => train(device, { name, config: small, rows: 2, length: 8, dtype: 'float32', bf16: true }, 1)],
    ['tiny, LoRA', (name) => train(device, { name, config: small, rows: 2, length: 8, dtype: 'bfloat16', bf16: true, lora }, 1)],
    ['tiny, QLoRA', (name) => train(device, { name, config: small, rows: 2, length: 8, dtype: 'bfloat16', bf16: true, lora, quantize: { format: 'nf4', block: 32 } }, 1)],
    ['tiny, GRPO', (name) => reinforce(device, { name, config: small, prompts: 1, answers: 2, prompt: 3, tokens: 3, repeats: 1 })],
    ['tiny, decoding', (name) => decode(device, name, small, { sequences: 2, prompt: 3, tokens: 5 })],
  ] : [
    ['GPT-2 124M, float32 with bf16 products, 16 × 1024', (name) => train(device, { name, config: gpt2, rows: 16, length: 1024, dtype: 'float32', bf16: true }, 5)],
    ['GPT-2 124M, bf16 weights, 16 × 1024', (name) => train(device, { name, config: gpt2, rows: 16, length: 1024, dtype: 'bfloat16', bf16: true }, 5)],
    ['4 layers of Llama 8B, bf16 weights, 4 × 2048', (name) => train(device, { name, config: llamaLayers, rows: 4, length: 2048, dtype: 'bfloat16', bf16: true }, 3)],
    ['Qwen2.5 0.5B, LoRA r 16, 8 × 1024', (name) => train(device, { name, config: qwen, rows: 8, length: 1024, dtype: 'bfloat16', bf16: true, lora }, 3)],
    ['Qwen2.5 0.5B, QLoRA nf4 r 16, 8 × 1024', (name) => train(device, { name, config: qwen, rows: 8, length: 1024, dtype: 'bfloat16', bf16: true, lora, quantize: 'nf4' }, 3)],
    ['4 layers of Llama 8B, QLoRA nf4 r 16, 4 × 2048', (name) => train(device, { name, config: llamaLayers, rows: 4, length: 2048, dtype: 'bfloat16', bf16: true, lora, quantize: 'nf4' }, 3)],
    ['Qwen2.5 0.5B, GRPO, 8 × 8 answers of 256', (name) => reinforce(device, { name, config: qwen, prompts: 8, answers: 8, prompt: 128, tokens: 256, repeats: 3 })],
    ['Qwen2.5 0.5B, decoding 1 sequence', (name) => decode(device, name, qwen, { sequences: 1, prompt: 128, tokens: 128 })],
    ['Qwen2.5 0.5B, decoding 64 sequences', (name) => decode(device, name, qwen, { sequences: 64, prompt: 128, tokens: 128 })],
  ]
  for (const [name, run] of steps) if (filter.test(name)) yield await run(name)
}
