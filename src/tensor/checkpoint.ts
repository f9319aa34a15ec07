import { autocast, computeDtype } from './autocast.ts'
import { backwardAll, enableGrad, isRecording, noGrad, record } from './autograd.ts'
import { manualSeed, randomState } from './random.ts'
import { scope } from './scope.ts'
import type { Tensor } from './tensor.ts'

/**
 * Gradient checkpointing: runs `body` without keeping what its backward needs, and runs it again during backward. Trades about a third more
 * computation for the memory of the intermediates (Chen et al. 2016). `body` must depend only on `inputs`, parameters and random numbers, which
 * are repeated exactly.
 */
export function checkpoint(body: (...inputs: Tensor[]) => Tensor, ...inputs: Tensor[]): Tensor {
  if (!isRecording()) return body(...inputs)
  const before = randomState()
  const dtype = computeDtype()
  const output = scope(() => noGrad(() => body(...inputs)))
  // Parameters inside `body` get their gradients from the inner backward, so the node is recorded even if no input wants one.
  const wants = inputs.map((input) => input.requiresGrad)
  const anchor = wants.some(Boolean) ? inputs : [output.alias().requiresGrad_()]
  record('checkpoint', anchor, [output], inputs, ([gradient], context) => {
    const copies = context.saved.map((saved, i) => saved.alias().requiresGrad_(wants[i]))
    const after = randomState()
    manualSeed(before.seed, before.next)
    let again: Tensor
    try {
      again = autocast(dtype, () => enableGrad(() => body(...copies)))
    } finally {
      manualSeed(after.seed, after.next)
    }
    if (again.node) backwardAll([again], [gradient!])
    copies.forEach((copy, i) => { if (copy.grad && wants[i]) context.give(i, copy.grad) })
  })
  return output
}
