// A step of distillation from a live teacher: GPT-2 124M teaches a student of half its layers, soft labels with a share of hard ones. What it may cost is the
// teacher's forward pass and the student's step of fine-tuning: bench/distillRatio.ts compares the two in turns.
import { distillationLoss, type DistillationLossOptions } from '../../src/methods/index.ts'
import { AutoModelForCausalLM, createConfig, type CausalLanguageModel } from '../../src/models/index.ts'
import { AdamW } from '../../src/optim/index.ts'
import { autocast } from '../../src/tensor/autocast.ts'
import { backward, noGrad, scope } from '../../src/tensor/index.ts'
import { forwardFlops, ids, model } from './shapes.ts'
import type { Step, StepDType } from './step.ts'

const [rows, length] = [4, 256]

const options: DistillationLossOptions = {
  objective: 'divergence', beta: 0, temperature: 2, scaleByTemperature: true, alpha: 0.2, tail: 'bucket', rklAdvantage: true, singleStepDecomposition: true, gamma: 0,
  lengthNormalization: true, vocabulary: 50257, hiddenLayers: [], hiddenWeight: 1, hiddenLoss: 'mse', attentionLayers: [], attentionWeight: 1,
}

export interface DistillationPair {
  teacher: CausalLanguageModel
  student: CausalLanguageModel
  /** A step of distillation. */
  distil: () => Promise<void>
  /** The teacher's logits, and a step of the student on hard labels. */
  apart: () => Promise<void>
}

/** Both ways to spend a step, over the same models. `size` is rows × tokens. */
export function distillationPair(dtype: StepDType, teacher = model('gpt2'), size: readonly [rows: number, length: number] = [rows, length]): DistillationPair {
  const { config } = teacher
  const student = AutoModelForCausalLM.fromConfig(createConfig({ ...config.raw, n_layer: config.numHiddenLayers / 2 }))
  teacher.requiresGrad_(false)
  student.train()
  const optimizer = new AdamW(student.namedParameters())
  const all = Array.from({ length: size[0] }, (_, i) => ids(size[1], config.vocabSize, String(i)))
  const inputIds = Int32Array.from(all.flat())
  const cuSeqlens = Int32Array.from({ length: size[0] + 1 }, (_, i) => i * size[1])
  const labels = inputIds.map((id, i) => i % size[1] === 0 ? -100 : id)
  const numItems = size[0] * (size[1] - 1)
  const batch = { inputIds, labels, cuSeqlens, positionIds: inputIds.map((_, i) => i % size[1]), maxSeqlen: size[1], numItems }
  const step = async (body: () => void): Promise<void> => {
    scope(() => { autocast(dtype, body) })
    await optimizer.step({ learningRate: 1e-5, maxGradNorm: 1 })
  }
  return {
    teacher, student,
    distil: () => step(() => { backward(distillationLoss({ student, teacher, projections: [] }, batch, numItems, { ...options, vocabulary: config.vocabSize }).loss) }),
    apart: () => step(() => {
      scope(() => { noGrad(() => teacher.forward({ inputIds, cuSeqlens })) })
      backward(student.forward({ inputIds, labels, cuSeqlens, numItems }).loss!)
    }),
  }
}

function distillation(dtype: StepDType): Step {
  return {
    name: `gpt2-distill-${dtype}`, dtype, peers: [],
    prepare() {
      const { teacher, student, distil } = distillationPair(dtype)
      const tokens = rows * length
      return { tokens, flops: 3 * forwardFlops(student, tokens, length / 2) + forwardFlops(teacher, tokens, length / 2), run: distil }
    },
  }
}

export const distillSteps: readonly Step[] = [distillation('float32'), distillation('bfloat16')]
