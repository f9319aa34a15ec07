// A step of supervised fine-tuning on conversations of different lengths, of which the answers are learnt: GPT-2 124M, all parameters. Rows lie one
// after the other without padding; TRL pads them to the longest.
import { AdamW } from '../../src/optim/index.ts'
import { autocast } from '../../src/tensor/autocast.ts'
import { backward, scope } from '../../src/tensor/index.ts'
import { torchPeers } from '../peers/torch.ts'
import { forwardFlops, ids, model } from './shapes.ts'
import type { Step, StepDType } from './step.ts'

/** Tokens of each row; the first half is the prompt. bench/peers/steps.py has the same. */
const lengths = [256, 64, 192, 96, 128, 224, 160, 80]

function fineTuning(dtype: StepDType): Step {
  const name = `gpt2-sft-${dtype}`
  return {
    name, dtype, peers: torchPeers('steps.py', name, { compile: false }),
    prepare() {
      const policy = model('gpt2')
      policy.train()
      const optimizer = new AdamW(policy.namedParameters())
      const rows = lengths.map((length, i) => ids(length, policy.config.vocabSize, String(i)))
      const inputIds = Int32Array.from(rows.flat())
      const labels = Int32Array.from(rows.flatMap((row) => row.map((id, i) => i < row.length / 2 ? -100 : id)))
      const cuSeqlens = Int32Array.from([0, ...lengths.map((_, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b))])
      const numItems = labels.filter((label) => label >= 0).length
      const longest = lengths.reduce((total, length) => total + length * length / 2, 0) / inputIds.length
      return {
        tokens: inputIds.length, flops: 3 * forwardFlops(policy, inputIds.length, longest),
        async run() {
          scope(() => { autocast(dtype, () => { backward(policy.forward({ inputIds, labels, cuSeqlens, numItems }).loss!) }) })
          await optimizer.step({ learningRate: 1e-5, maxGradNorm: 1 })
        },
      }
    },
  }
}

export const sftSteps: readonly Step[] = [fineTuning('float32'), fineTuning('bfloat16')]
