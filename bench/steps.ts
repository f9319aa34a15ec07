// Whole steps: pretraining GPT-2 124M, a tiny GPT, and generation with a model of Qwen2.5-0.5B's shape, all with random weights.
import { addAdapter } from '../src/adapters/index.ts'
import { AutoModelForCausalLM, createConfig, KeyValueCache, quantizeLayers, resolveQuantization } from '../src/models/index.ts'
import type { CausalLanguageModel, ModelConfig, QuantizeOption } from '../src/models/index.ts'
import { autocast } from '../src/tensor/autocast.ts'
import { AdamW } from '../src/optim/index.ts'
import { backward, cpu, noGrad, scope } from '../src/tensor/index.ts'
import { randomNumbers } from '../tests/cases/random.ts'
import type { Measurement } from './operations.ts'
import { productPeak } from './peaks.ts'
import type { Peaks } from './peaks.ts'
import { time } from './quiet.ts'

export interface Step { readonly name: string; measure(peaks: Peaks): Promise<Measurement> }

const gpt2 = (): ModelConfig => createConfig({ modelType: 'gpt2', vocabSize: 50257, nPositions: 1024, nEmbd: 768, nLayer: 12, nHead: 12, residPdrop: 0, embdPdrop: 0, attnPdrop: 0 })
const tiny = (): ModelConfig => createConfig({
  modelType: 'gpt2', vocabSize: 512, nPositions: 64, nEmbd: 128, nLayer: 2, nHead: 4, residPdrop: 0, embdPdrop: 0, attnPdrop: 0,
})
const qwen = (): ModelConfig => createConfig({
  modelType: 'qwen2', vocabSize: 151936, hiddenSize: 896, intermediateSize: 4864, numHiddenLayers: 24, numAttentionHeads: 14, numKeyValueHeads: 2, maxPositionEmbeddings: 32768,
  ropeTheta: 1e6, tieWordEmbeddings: true, rmsNormEps: 1e-6,
})

const ids = (length: number, vocabulary: number): number[] => {
  const random = randomNumbers(`ids ${length}`)
  return Array.from({ length }, () => Math.floor(random() * vocabulary))
}

/** Multiply-adds of the weights, counting 2 for each and token, and of causal attention. */
function forwardFlops(model: CausalLanguageModel, tokens: number, keys: number): number {
  const { config } = model
  const table = config.kind === 'gpt2' ? config.maxPositionEmbeddings * config.hiddenSize : 0
  return 2 * (model.numParameters() - table) * tokens + 4 * tokens * keys * config.numAttentionHeads * config.headDim * config.numHiddenLayers
}

interface Outcome { seconds: Awaited<ReturnType<typeof time>>; flops: number; name: string; dtype: string; peaks: Peaks }

function report({ seconds, flops, name, dtype, peaks }: Outcome): Measurement {
  const value = flops / seconds.median / 1e9
  const peak = productPeak(peaks, cpu.isa, dtype)
  return { name, isa: cpu.isa, threads: cpu.threads, dtype, pass: 'forward', ...seconds, unit: 'GFLOP/s', value, share: peak ? value / peak : null }
}

function training(name: string, config: () => ModelConfig, batch: number, length: number, dtype: 'float32' | 'bfloat16'): Step {
  return {
    name,
    async measure(peaks) {
      const model = AutoModelForCausalLM.fromConfig(config())
      model.train()
      const optimizer = new AdamW(model.namedParameters(), { weightDecay: 0.1 })
      const inputIds = Array.from({ length: batch }, () => ids(length, model.config.vocabSize))
      const step = async (): Promise<void> => {
        scope(() => { autocast(dtype, () => { backward(model.forward({ inputIds, labels: inputIds }).loss!) }) })
        await optimizer.step({ learningRate: 1e-4, maxGradNorm: 0 })
      }
      const seconds = await time(step, { budget: 3, limit: 60, least: 5 })
      const flops = 3 * forwardFlops(model, batch * length, length / 2)
      optimizer.dispose()
      model.dispose()
      return { ...report({ seconds, flops, name, dtype, peaks }), pass: 'forward+backward' }
    },
  }
}

/** A LoRA step of r 16 over every linear layer, of a model of Qwen2.5-0.5B's shape and 1 × 512 tokens; over weights of 4 bits it is QLoRA. */
function loraTraining(name: string, dtype: 'float32' | 'bfloat16', quantize?: QuantizeOption): Step {
  return {
    name,
    async measure(peaks) {
      const model = AutoModelForCausalLM.fromConfig(qwen(), { dtype })
      if (quantize !== undefined) await quantizeLayers(model, resolveQuantization(quantize))
      await addAdapter(model, { type: 'lora', targetModules: 'all-linear', r: 16 })
      model.train()
      const optimizer = new AdamW(model.namedParameters())
      const inputIds = [ids(512, model.config.vocabSize)]
      const seconds = await time(async () => {
        scope(() => { autocast(dtype, () => { backward(model.forward({ inputIds, labels: inputIds }).loss!) }) })
        await optimizer.step({ learningRate: 1e-4, maxGradNorm: 1 })
      }, { budget: 3, limit: 60, least: 5 })
      // Frozen weights have no gradient of their own.
      const flops = 2 * forwardFlops(model, 512, 256)
      optimizer.dispose()
      model.dispose()
      return { ...report({ seconds, flops, name, dtype, peaks }), pass: 'forward+backward' }
    },
  }
}

function generation(name: string, kind: 'prefill' | 'decode', dtype: 'float32' | 'bfloat16', quantize?: QuantizeOption): Step {
  const prompt = kind === 'prefill' ? 512 : 128
  return {
    name,
    async measure(peaks) {
      const model = AutoModelForCausalLM.fromConfig(qwen(), { dtype })
      if (quantize !== undefined) await quantizeLayers(model, resolveQuantization(quantize))
      model.eval()
      const cache = new KeyValueCache(model.config, { slots: prompt + 1, dtype })
      const sequence = cache.allocate(prompt + 1)
      const run = (inputIds: number[]): Promise<unknown> => {
        const pending: Promise<unknown>[] = []
        scope(() => { noGrad(() => { pending.push(model.forward({ inputIds: [inputIds], cache, cacheSequences: [sequence], logitsToKeep: 1 }).logits!.data()) }) })
        return pending[0]!
      }
      const tokens = ids(prompt, model.config.vocabSize)
      if (kind === 'decode') await run(tokens)
      const seconds = await time(async () => {
        cache.truncate(sequence, kind === 'prefill' ? 0 : prompt)
        await run(kind === 'prefill' ? tokens : [7])
      }, { budget: 3, limit: 60 })
      const head = 2 * model.config.vocabSize * model.config.hiddenSize
      const flops = kind === 'prefill' ? forwardFlops(model, prompt, prompt / 2) - (prompt - 1) * head : forwardFlops(model, 1, prompt)
      cache.dispose()
      model.dispose()
      return report({ seconds, flops, name, dtype, peaks })
    },
  }
}

export const steps: readonly Step[] = [
  training('tiny-float32', tiny, 8, 64, 'float32'), training('gpt2-float32', gpt2, 4, 256, 'float32'), training('gpt2-bfloat16', gpt2, 4, 256, 'bfloat16'),
  generation('qwen-prefill-float32', 'prefill', 'float32'), generation('qwen-prefill-bfloat16', 'prefill', 'bfloat16'),
  generation('qwen-decode-float32', 'decode', 'float32'), generation('qwen-decode-bfloat16', 'decode', 'bfloat16'),
  generation('qwen-decode-nf4', 'decode', 'bfloat16', 'nf4'), generation('qwen-decode-int4', 'decode', 'bfloat16', 'int4'), generation('qwen-decode-int8', 'decode', 'bfloat16', 'int8'),
  loraTraining('qwen-lora-float32', 'float32'), loraTraining('qwen-lora-bfloat16', 'bfloat16'), loraTraining('qwen-qlora-nf4', 'bfloat16', 'nf4'),
]
