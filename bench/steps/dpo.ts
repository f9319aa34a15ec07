// A step of DPO with LoRA r 16 on one pair of 256 + 256 tokens, a model of Qwen2.5-0.5B's shape; the model without its adapter is the reference.
import { addAdapter } from '../../src/adapters/index.ts'
import { collatePairs, dpoStep } from '../../src/methods/preference/dpo.ts'
import { dpoSchema } from '../../src/methods/preference/options.ts'
import { Reference } from '../../src/methods/reference.ts'
import { AdamW } from '../../src/optim/index.ts'
import { autocast } from '../../src/tensor/autocast.ts'
import { backward, scope } from '../../src/tensor/index.ts'
import { torchPeers } from '../peers/torch.ts'
import { forwardFlops, ids, model } from './shapes.ts'
import type { Step, StepDType } from './step.ts'

const length = 256
const promptLength = 128

function preference(dtype: StepDType): Step {
  const name = `qwen-dpo-${dtype}`
  return {
    name, dtype, peers: torchPeers('steps.py', name, { compile: false }),
    async prepare() {
      const policy = model('qwen', dtype)
      await addAdapter(policy, { type: 'lora', targetModules: 'all-linear', r: 16 })
      policy.train()
      const { vocabSize } = policy.config
      const args = dpoSchema.parse({ model: 'random', outputDir: 'random', dtype })
      const loss = dpoStep(policy, await Reference.of(policy, args), args)
      const prompt = ids(promptLength, vocabSize, 'prompt')
      const [chosen, rejected] = ['chosen', 'rejected'].map((seed) => ({ inputIds: Int32Array.from([...prompt, ...ids(length - promptLength, vocabSize, seed)]), promptLength }))
      const batch = collatePairs([{ chosen: chosen!, rejected: rejected!, margin: undefined }])
      const optimizer = new AdamW(policy.namedParameters())
      return {
        // Forward and the gradient of what is not frozen, and the reference's forward pass.
        tokens: 2 * length, flops: 3 * forwardFlops(policy, 2 * length, length / 2),
        async run() {
          scope(() => { autocast(dtype, () => { backward(loss(batch, { items: batch.items, labelled: batch.labelled }).loss) }) })
          await optimizer.step({ learningRate: 1e-6, maxGradNorm: 1 })
        },
      }
    },
  }
}

export const dpoSteps: readonly Step[] = [preference('bfloat16'), preference('float32')]
