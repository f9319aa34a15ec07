// What a case of an operation is, and how its inputs are made. The same cases serve the tests and the benchmarks.
import { Tensor } from '../../src/tensor/index.ts'
import type { DType, Shape } from '../../src/tensor/index.ts'
import { randomNumbers } from './random.ts'

/** Numbers drawn evenly from [low, high) and rounded to bfloat16, so that every dtype starts from the same ones. */
export interface FloatInput {
  readonly kind: 'float'
  readonly shape: Shape
  readonly low: number
  readonly high: number
  /** Whether its gradient is compared. */
  readonly gradient: boolean
  /** A dtype that does not follow the case's. */
  readonly fixed?: DType
}

/** int32 numbers. */
export interface IntegerInput {
  readonly kind: 'integer'
  readonly shape: Shape
  readonly values: readonly number[]
}

export type Input = FloatInput | IntegerInput

/** Floating-point operations and bytes moved at least. */
export interface Work { readonly flops?: number; readonly bytes?: (bytesPerNumber: number) => number }

/** What the timed calls of a case share: made once, outside of them. */
export interface PreparedCase { readonly run: OpCase['run']; readonly dispose: () => void }

/** The same computation in another library: a formula of bench/peers/operations.py over the same inputs, and what it needs besides. */
export interface PeerFormula { readonly formula: string; readonly [option: string]: string | number | boolean | readonly number[] }

export interface OpCase {
  readonly op: string
  readonly name: string
  readonly inputs: readonly Input[]
  readonly run: (...inputs: Tensor[]) => Tensor | readonly Tensor[]
  readonly forward: Work
  readonly backward?: Work
  /** Largest error over the largest number of the reference; 1e-5 in float32 and 2e-2 in bfloat16 by default. */
  readonly tolerance?: { readonly float32?: number; readonly bfloat16?: number }
  /** Too large to compute in float64: only timed. */
  readonly benchOnly?: boolean
  /** Where timing needs more than the inputs, such as a quantised weight. */
  readonly prepare?: (dtype: DType) => PreparedCase
  readonly peer?: PeerFormula
  /** The dtypes that are timed; float32 and bfloat16 by default. */
  readonly dtypes?: readonly ('float32' | 'bfloat16')[]
}

export function float(shape: Shape, { low = -1, high = 1, gradient = true, fixed }: { low?: number; high?: number; gradient?: boolean; fixed?: DType } = {}): FloatInput {
  return { kind: 'float', shape, low, high, gradient, ...(fixed ? { fixed } : {}) }
}

export const integers = (values: readonly number[], shape: Shape = [values.length]): IntegerInput => ({ kind: 'integer', shape, values })

/** `count` numbers below `below`, some of them -100 where `ignored` is the share of those. */
export function labels(count: number, below: number, ignored = 0): IntegerInput {
  const random = randomNumbers(`labels ${count} ${below}`)
  return integers(Array.from({ length: count }, () => random() < ignored ? -100 : Math.floor(random() * below)))
}

const toBfloat16 = new Float32Array(1)
const bits = new Uint32Array(toBfloat16.buffer)

/** The nearest bfloat16. */
export function roundToBfloat16(x: number): number {
  toBfloat16[0] = x
  const word = bits[0]!
  bits[0] = (word + 0x7fff + ((word >>> 16) & 1)) & 0xffff0000
  return toBfloat16[0]
}

/** The numbers of an input. */
export function numbersOf(input: Input, seed: string): Float64Array {
  if (input.kind === 'integer') return Float64Array.from(input.values)
  const random = randomNumbers(seed)
  const numbers = new Float64Array(input.shape.reduce((a, b) => a * b, 1))
  for (let i = 0; i < numbers.length; i++) numbers[i] = roundToBfloat16(input.low + (input.high - input.low) * random())
  return numbers
}

/** The inputs of a case as tensors of a dtype. */
export function makeInputs(opCase: OpCase, dtype: DType): Tensor[] {
  return opCase.inputs.map((input, i) => {
    const numbers = numbersOf(input, `${opCase.op} ${opCase.name} ${i}`)
    if (input.kind === 'integer') return Tensor.from(Int32Array.from(numbers), input.shape)
    const tensor = Tensor.from(numbers, input.shape, { dtype: dtype === 'float64' ? dtype : input.fixed ?? dtype })
    return input.gradient ? tensor.requiresGrad_() : tensor
  })
}

/** The parts of a case whose runs share something that `make` makes: once where it is timed. */
export function sharing<T extends { dispose(): void }>(make: (dtype: DType) => T, run: (shared: T, ...inputs: Tensor[]) => ReturnType<OpCase['run']>): Pick<OpCase, 'run' | 'prepare'> {
  return {
    run: (...inputs) => run(make(inputs[0]!.dtype), ...inputs),
    prepare(dtype) {
      const shared = make(dtype)
      return { run: (...inputs) => run(shared, ...inputs), dispose: () => { shared.dispose() } }
    },
  }
}

export const label = ({ op, name }: OpCase): string => `${op} ${name}`
