// Prefill and greedy decoding with a model of Qwen2.5-0.5B's shape.
import { GenerationEngine, resolveGenerationConfig } from '../../src/generate/index.ts'
import { KeyValueCache, quantizeLayers, resolveQuantization } from '../../src/models/index.ts'
import type { CausalLanguageModel, QuantizeOption } from '../../src/models/index.ts'
import { noGrad, scope } from '../../src/tensor/index.ts'
import { llamaPeers } from '../peers/llama.ts'
import { torchPeers } from '../peers/torch.ts'
import { forwardFlops, ids, model } from './shapes.ts'
import type { Step, StepDType } from './step.ts'

async function load(dtype: StepDType, quantize?: QuantizeOption): Promise<CausalLanguageModel> {
  const policy = model('qwen', dtype)
  if (quantize !== undefined) await quantizeLayers(policy, resolveQuantization(quantize))
  policy.eval()
  return policy
}

/** 512 tokens of a prompt, of which the last goes through the head. */
function prefill(dtype: StepDType): Step {
  const name = `qwen-prefill-${dtype}`
  const length = 512
  return {
    name, dtype, peers: [...torchPeers('steps.py', name), ...llamaPeers('prefill', dtype)],
    async prepare() {
      const policy = await load(dtype)
      const { vocabSize, hiddenSize } = policy.config
      const cache = new KeyValueCache(policy.config, { slots: length, dtype })
      const sequence = cache.allocate(length)
      const inputIds = [ids(length, vocabSize)]
      return {
        tokens: length, flops: forwardFlops(policy, length, length / 2) - 2 * (length - 1) * vocabSize * hiddenSize,
        async run() {
          cache.truncate(sequence, 0)
          const pending: Promise<unknown>[] = []
          scope(() => { noGrad(() => { pending.push(policy.forward({ inputIds, cache, cacheSequences: [sequence], logitsToKeep: 1 }).logits!.data()) }) })
          await pending[0]
        },
      }
    },
  }
}

const prompt = 128
/** Tokens after the first, which comes out of the prompt's pass. */
const more = 16

/** A token of greedy search after a prompt of 128 and a first token, with all that generate() does. */
function decode(format: StepDType | 'nf4' | 'int4' | 'int8', head?: 'int8'): Step {
  const quantize = format === 'float32' || format === 'bfloat16' ? undefined : { format, head }
  const dtype = format === 'float32' ? 'float32' : 'bfloat16'
  const name = `qwen-decode-${format}${head === undefined ? '' : '-head8'}`
  return {
    name, dtype, peers: [...quantize === undefined ? torchPeers('steps.py', name, { compile: false }) : [], ...llamaPeers('decode', format)],
    async prepare() {
      const policy = await load(dtype, quantize)
      const engine = new GenerationEngine(policy, { slots: prompt + more + 1 })
      const promptIds = Int32Array.from(ids(prompt, policy.config.vocabSize))
      const config = { ...resolveGenerationConfig({ maxNewTokens: 1 + more, temperature: 0 }, {}), eosTokenIds: [] }
      return {
        tokens: 1, flops: forwardFlops(policy, 1, prompt + more / 2),
        async run() {
          let first: number | undefined
          await engine.submit({ promptIds, config, seed: 0, onToken: () => { first ??= performance.now() } })
          return (performance.now() - first!) / 1000 / more
        },
      }
    },
  }
}

export const generationSteps: readonly Step[] = [
  prefill('float32'), prefill('bfloat16'), decode('float32'), decode('bfloat16'), decode('nf4'), decode('nf4', 'int8'), decode('int4'), decode('int8'), decode('int8', 'int8'),
]
