// Pretraining steps: forward, loss, backward and AdamW over all parameters.
import { AdamW } from '../../src/optim/index.ts'
import { autocast } from '../../src/tensor/autocast.ts'
import { backward, scope } from '../../src/tensor/index.ts'
import { torchPeers } from '../peers/torch.ts'
import { forwardFlops, ids, model } from './shapes.ts'
import type { Shape } from './shapes.ts'
import type { Step, StepDType } from './step.ts'

function pretraining(shape: Shape, dtype: StepDType, batch: number, length: number): Step {
  const name = `${shape}-${dtype}`
  return {
    name, dtype, peers: torchPeers('steps.py', name),
    prepare() {
      const policy = model(shape)
      policy.train()
      const optimizer = new AdamW(policy.namedParameters(), { weightDecay: 0.1 })
      const inputIds = Array.from({ length: batch }, (_, i) => ids(length, policy.config.vocabSize, String(i)))
      return {
        tokens: batch * length, flops: 3 * forwardFlops(policy, batch * length, length / 2),
        async run() {
          scope(() => { autocast(dtype, () => { backward(policy.forward({ inputIds, labels: inputIds }).loss!) }) })
          await optimizer.step({ learningRate: 1e-4, maxGradNorm: 0 })
        },
      }
    },
  }
}

export const pretrainSteps: readonly Step[] = [pretraining('tiny', 'float32', 8, 64), pretraining('gpt2', 'float32', 4, 256), pretraining('gpt2', 'bfloat16', 4, 256)]
