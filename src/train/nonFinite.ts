import type { Module, Parameter } from '../nn/index.ts'
import { backward, noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import type { TaskStep, TrainingTask } from './task.ts'

async function isFinite(tensor: Tensor): Promise<boolean> {
  const count = unscoped(() => Tensor.empty([1], { dtype: 'int32', device: tensor.device }))
  tensor.device.kernels.count_non_finite(count.handle, tensor.handle, false)
  try {
    return await count.item() === 0
  } finally {
    count.dispose()
  }
}

/** The first parameter that holds a NaN or an infinity. */
export async function firstNonFiniteParameter(model: Module): Promise<string | undefined> {
  for (const [name, { tensor }] of model.namedParameters()) if (!await isFinite(tensor)) return name
  return undefined
}

/**
 * Names the first tensor of a step that holds a NaN or an infinity, in the order they are computed: a parameter, a result of the forward pass, the
 * loss, or a gradient. undefined where none does when computed again.
 */
export async function firstNonFinite<B>(task: TrainingTask<B>, { microBatches, numItems }: TaskStep<B>): Promise<string | undefined> {
  const parameter = await firstNonFiniteParameter(task.model)
  if (parameter !== undefined) return `parameter ${parameter}`
  for (const batch of microBatches) {
    const found = await inForward(task, batch) ?? await inGradients(task, batch, numItems)
    if (found !== undefined) return found
  }
  return undefined
}

async function inForward<B>(task: TrainingTask<B>, batch: B): Promise<string | undefined> {
  const traced = noGrad(() => [...task.trace?.(batch) ?? []])
  try {
    for (const [name, tensor] of traced) if (!await isFinite(tensor)) return name
    return undefined
  } finally {
    for (const [, tensor] of traced) tensor.dispose()
  }
}

/** backward() goes from the last layer to the first, so the last parameter's gradient is the first of all. */
async function inGradients<B>(task: TrainingTask<B>, batch: B, numItems: number): Promise<string | undefined> {
  const loss = scope(() => {
    const { loss } = task.loss(batch, numItems)
    backward(loss)
    return loss
  })
  const withGradient = [...task.model.namedParameters()].filter(([, { grad }]) => grad !== null)
  try {
    if (!await isFinite(loss)) return 'the loss'
    for (const [name, { grad }] of withGradient.reverse() as [string, Parameter & { grad: Tensor }][]) if (!await isFinite(grad)) return `the gradient of ${name}`
    return undefined
  } finally {
    loss.dispose()
    for (const [, one] of withGradient) one.zeroGrad()
  }
}
