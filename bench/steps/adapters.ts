// Steps of LoRA r 16 over every linear layer of Qwen2.5-0.5B's shape, 1 × 512 tokens; over weights of 4 bits it is QLoRA.
import { addAdapter } from '../../src/adapters/index.ts'
import { quantizeLayers, resolveQuantization } from '../../src/models/index.ts'
import type { QuantizeOption } from '../../src/models/index.ts'
import { AdamW } from '../../src/optim/index.ts'
import { autocast } from '../../src/tensor/autocast.ts'
import { backward, scope } from '../../src/tensor/index.ts'
import { torchPeers } from '../peers/torch.ts'
import { forwardFlops, ids, model } from './shapes.ts'
import type { Step, StepDType } from './step.ts'

const length = 512

function adapterTraining(name: string, dtype: StepDType, quantize?: QuantizeOption): Step {
  return {
    // No library trains over weights of 4 bits on a CPU: the yardstick of QLoRA is the bfloat16 LoRA step.
    name, dtype, peers: quantize === undefined ? torchPeers('steps.py', name) : [],
    async prepare() {
      const policy = model('qwen', dtype)
      if (quantize !== undefined) await quantizeLayers(policy, resolveQuantization(quantize))
      await addAdapter(policy, { type: 'lora', targetModules: 'all-linear', r: 16 })
      policy.train()
      const optimizer = new AdamW(policy.namedParameters())
      const inputIds = [ids(length, policy.config.vocabSize)]
      return {
        // Frozen weights have no gradient of their own.
        tokens: length, flops: 2 * forwardFlops(policy, length, length / 2),
        async run() {
          scope(() => { autocast(dtype, () => { backward(policy.forward({ inputIds, labels: inputIds }).loss!) }) })
          await optimizer.step({ learningRate: 1e-4, maxGradNorm: 1 })
        },
      }
    },
  }
}

export const adapterSteps: readonly Step[] = [
  adapterTraining('qwen-lora-float32', 'float32'), adapterTraining('qwen-lora-bfloat16', 'bfloat16'), adapterTraining('qwen-qlora-nf4', 'bfloat16', 'nf4'),
]
