// The calls of a case that are timed: forward, and forward with backward.
import { backwardAll, noGrad, scope, Tensor } from '../src/tensor/index.ts'
import type { Device } from '../src/tensor/index.ts'
import type { OpCase } from '../tests/cases/case.ts'

export type BenchDType = 'float32' | 'bfloat16'

export const dtypesOf = ({ dtypes = ['float32', 'bfloat16'] }: OpCase): readonly BenchDType[] => dtypes

/** Inputs of a case, drawn on the device: a case of the benchmarks may have a hundred million numbers. */
function drawInputs({ inputs }: OpCase, dtype: BenchDType, device: Device): Tensor[] {
  return inputs.map((input, i) => {
    if (input.kind === 'integer') return Tensor.from(Int32Array.from(input.values), input.shape, { device })
    const tensor = Tensor.empty(input.shape, { dtype: input.fixed ?? dtype, device })
    device.kernels.random_uniform(tensor.handle, input.low, input.high, 1, i)
    return input.gradient ? tensor.requiresGrad_() : tensor
  })
}

export interface Calls { readonly forward: () => void; readonly both: (() => void) | null; dispose(): void }

/** Makes what the calls of a case need. */
export function callsOf(opCase: OpCase, dtype: BenchDType, device: Device): Calls {
  const inputs = drawInputs(opCase, dtype, device)
  const prepared = opCase.prepare?.(dtype)
  const run = prepared ? prepared.run : opCase.run
  const outputs = (): Tensor[] => {
    const made = run(...inputs)
    return (made instanceof Tensor ? [made] : [...made])
  }
  const gradients: Tensor[] = []
  let both: Calls['both'] = null
  if (inputs.some(({ requiresGrad }) => requiresGrad)) {
    // A loss alone starts from an implied 1, as a training step does.
    const ones = scope(() => {
      const roots = outputs().filter(({ node }) => node)
      return roots.length === 1 && roots[0]!.size === 1 ? null : roots.map((root) => Tensor.ones(root.shape, { dtype: root.dtype, device }))
    })
    gradients.push(...ones ?? [])
    both = () => {
      scope(() => {
        const roots = outputs().filter(({ node }) => node)
        backwardAll(roots, ones ?? undefined)
        for (const input of inputs) {
          input.grad?.dispose()
          input.grad = null
        }
      })
    }
  }
  return {
    forward: () => { scope(() => { noGrad(() => { outputs() }) }) },
    both,
    dispose() {
      for (const tensor of [...inputs, ...gradients]) tensor.dispose()
      prepared?.dispose()
    },
  }
}
