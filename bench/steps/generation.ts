// Prefill and greedy decoding with a model of Qwen2.5-0.5B's shape.
import { KeyValueCache, quantizeLayers, resolveQuantization } from '../../src/models/index.ts'
import type { QuantizeOption } from '../../src/models/index.ts'
import { noGrad, scope } from '../../src/tensor/index.ts'
import { torchPeers } from '../peers/torch.ts'
import { forwardFlops, ids, model } from './shapes.ts'
import type { Step, StepDType } from './step.ts'

function generation(name: string, kind: 'prefill' | 'decode', dtype: StepDType, quantize?: QuantizeOption): Step {
  const prompt = kind === 'prefill' ? 512 : 128
  return {
    name, dtype, peers: quantize === undefined ? torchPeers('steps.py', name, { compile: kind === 'prefill' }) : [],
    async prepare() {
      const policy = model('qwen', dtype)
      if (quantize !== undefined) await quantizeLayers(policy, resolveQuantization(quantize))
      policy.eval()
      const { vocabSize, hiddenSize } = policy.config
      const cache = new KeyValueCache(policy.config, { slots: prompt + 1, dtype })
      const sequence = cache.allocate(prompt + 1)
      const forward = async (inputIds: number[]): Promise<void> => {
        const pending: Promise<unknown>[] = []
        scope(() => { noGrad(() => { pending.push(policy.forward({ inputIds: [inputIds], cache, cacheSequences: [sequence], logitsToKeep: 1 }).logits!.data()) }) })
        await pending[0]
      }
      const tokens = ids(prompt, vocabSize)
      if (kind === 'decode') await forward(tokens)
      return {
        tokens: kind === 'prefill' ? prompt : 1,
        // Only the last token goes through the head.
        flops: kind === 'prefill' ? forwardFlops(policy, prompt, prompt / 2) - 2 * (prompt - 1) * vocabSize * hiddenSize : forwardFlops(policy, 1, prompt),
        async run() {
          cache.truncate(sequence, kind === 'prefill' ? 0 : prompt)
          await forward(kind === 'prefill' ? tokens : [7])
        },
      }
    },
  }
}

export const generationSteps: readonly Step[] = [
  generation('qwen-prefill-float32', 'prefill', 'float32'), generation('qwen-prefill-bfloat16', 'prefill', 'bfloat16'),
  generation('qwen-decode-float32', 'decode', 'float32'), generation('qwen-decode-bfloat16', 'decode', 'bfloat16'),
  generation('qwen-decode-nf4', 'decode', 'bfloat16', 'nf4'), generation('qwen-decode-int4', 'decode', 'bfloat16', 'int4'), generation('qwen-decode-int8', 'decode', 'bfloat16', 'int8'),
]
