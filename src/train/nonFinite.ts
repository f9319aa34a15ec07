import type { Module } from '../nn/index.ts'
import { noGrad, Tensor, unscoped } from '../tensor/index.ts'

async function countNonFinite(tensor: Tensor): Promise<number> {
  const count = unscoped(() => Tensor.empty([1], { dtype: 'int32', device: tensor.device }))
  tensor.device.kernels.count_non_finite(count.handle, tensor.handle, false)
  const result = count.item()
  count.dispose()
  return result
}

/**
 * Names the first tensor that holds a NaN or an infinity: a parameter, or else a result of the forward pass over `batch`, in the order they are
 * computed. undefined where all are finite, so that the fault lies in the gradients.
 */
export async function firstNonFinite<B>(model: Module, batch: B, trace?: (batch: B) => Iterable<readonly [string, Tensor]>): Promise<string | undefined> {
  for (const [name, parameter] of model.namedParameters()) if (await countNonFinite(parameter.tensor) > 0) return `parameter ${name}`
  if (!trace) return undefined
  const traced = noGrad(() => [...trace(batch)])
  try {
    for (const [name, tensor] of traced) if (await countNonFinite(tensor) > 0) return name
    return undefined
  } finally {
    for (const [, tensor] of traced) tensor.dispose()
  }
}
