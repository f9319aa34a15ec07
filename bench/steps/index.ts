// Every whole step that is timed. A new one: a file here that exports its steps, and a line below.
import { adapterSteps } from './adapters.ts'
import { distillSteps } from './distill.ts'
import { dpoSteps } from './dpo.ts'
import { generationSteps } from './generation.ts'
import { pretrainSteps } from './pretrain.ts'
import { sftSteps } from './sft.ts'
import type { Step } from './step.ts'

export const steps: readonly Step[] = [
  ...pretrainSteps,
  ...sftSteps,
  ...adapterSteps,
  ...dpoSteps,
  ...distillSteps,
  ...generationSteps,
]
