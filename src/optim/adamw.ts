import { z } from 'zod'
import { awaitedLater } from '../awaitedLater.ts'
import { ConfigError, FileFormatError } from '../errors.ts'
import { loadTensors, saveTensors } from '../files/tensorFiles.ts'
import { Parameter } from '../nn/index.ts'
import { givenOptions, lazily, parseOptions } from '../options.ts'
import { scope, Tensor, unscoped } from '../tensor/index.ts'
import type { Device, TypedArray } from '../tensor/index.ts'

/** What `AdamW` takes; names and defaults are torch.optim.AdamW's in camelCase. */
export interface AdamWOptions {
  /** Default 0.9. */
  beta1?: number
  /** Default 0.999. */
  beta2?: number
  /** Default 1e-8. */
  eps?: number
  /** Decoupled weight decay of matrices; biases and norm weights (rank 1) have none, as in transformers' Trainer. Default 0. */
  weightDecay?: number
  /**
   * Bits of a running mean: 32, or 8 with a scale for 256 numbers (Dettmers et al. 2022, bitsandbytes' code books); parameters below 4096 numbers keep
   * 32. Default 32.
   */
  stateBits?: 32 | 8
}

const adamwOptions = lazily(() => z.strictObject({
  beta1: z.number().min(0).lt(1).default(0.9), beta2: z.number().min(0).lt(1).default(0.999), eps: z.number().positive().default(1e-8),
  weightDecay: z.number().min(0).default(0), stateBits: z.union([z.literal(32), z.literal(8)]).default(32),
}))

/** What AdamW keeps of one parameter. */
interface State {
  readonly parameter: Parameter
  /** Running means of the gradient and of its square, float32, or uint8 with scales. */
  readonly expAvg: Tensor
  readonly expAvgSq: Tensor
  /** float32, one for 256 numbers. */
  readonly scales: { readonly expAvg: Tensor; readonly expAvgSq: Tensor } | null
  /** The float32 values of a 16-bit parameter. */
  readonly master: Tensor | null
}

export interface StepOptions {
  learningRate: number
  /** Largest norm of all gradients together; larger ones are scaled down. 0 for no limit, the default. */
  maxGradNorm?: number
}

const stepOptions = lazily(() => z.strictObject({ learningRate: z.number().min(0), maxGradNorm: z.number().min(0).default(0) }))

/** AdamW (Loshchilov & Hutter 2019) in PyTorch's formula, over the parameters of a model that have requiresGrad. */
export class AdamW {
  readonly options: Required<AdamWOptions>
  /** Updates done. */
  steps = 0
  readonly #states: ReadonlyMap<string, State>

  constructor(parameters: Iterable<readonly [string, Parameter]>, options: AdamWOptions = {}) {
    this.options = parseOptions(adamwOptions, givenOptions('AdamW', options, 'weightDecay: 0.01'), 'AdamW')
    const { stateBits } = this.options
    const trainable = pairsOf(parameters).filter(([, parameter]) => parameter.requiresGrad)
    // The scope gives back what there is already where memory runs out for the rest.
    this.#states = new Map(unscoped(() => scope(() => trainable.map(([name, parameter]) => [name, createState(parameter, stateBits)] as const))))
    if (this.#states.size === 0) throw new ConfigError('no parameter is trainable; unfreeze some with requiresGrad_()')
  }

  /** The running means of a parameter, by its name in the model. */
  state(name: string): { expAvg: Tensor; expAvgSq: Tensor; step: number } | undefined {
    const state = this.#states.get(name)
    return state && { expAvg: state.expAvg, expAvgSq: state.expAvgSq, step: this.steps }
  }

  /** Where the parameters are. */
  get device(): Device { return [...this.#states.values()][0]!.parameter.device }

  /** The float32 values of 16-bit parameters, by name; empty for a float32 model. */
  masters(): Map<string, Tensor> {
    return new Map([...this.#states].flatMap(([name, { master }]) => master ? [[name, master]] : []))
  }

  /**
   * One update from the gradients, which are released. Returns the norm of all gradients before clipping, once computed. A norm that is not
   * finite leaves parameters and state unchanged. Rejects with ConfigError for a learning rate that is no number from 0, and where no parameter has a gradient.
   */
  async step(options: StepOptions): Promise<number> {
    const checked = parseOptions(stepOptions, givenOptions('AdamW.step', options, 'learningRate: 1e-4, maxGradNorm: 1'), 'AdamW.step')
    const norm = this.#update(checked)
    try {
      return Number((await norm)[1])
    } catch (error) {
      // A kernel before it failed, and so it did not run.
      this.steps--
      throw error
    }
  }

  /** Enqueues the update; the second of the numbers that come is the norm of the gradients. */
  #update({ learningRate, maxGradNorm }: z.output<typeof stepOptions>): Promise<TypedArray> {
    const states = [...this.#states.values()].filter(({ parameter }) => parameter.grad !== null)
    const first = states[0]
    if (!first) throw new ConfigError('AdamW.step: no parameter has a gradient; call backward() first')
    const { device } = first.parameter
    using factor = unscoped(() => scope(() => {
      const squares = Tensor.empty([1], { dtype: 'float64', device })
      device.kernels.sum_squares(squares.handle, states.map(({ parameter }) => parameter.grad!.handle), false)
      const both = Tensor.empty([2], { device })
      device.kernels.clip_factor(both.handle, squares.handle, maxGradNorm)
      return both
    }))
    const norm = awaitedLater(factor.data())
    const { beta1, beta2, eps, weightDecay } = this.options
    this.steps++
    for (const group of groupsOf(states)) {
      const all = (of: (state: State) => Tensor) => group.map((state) => of(state).handle)
      const values = all(({ parameter, master }) => master ?? parameter.tensor)
      const [first, second] = [all(({ expAvg }) => expAvg), all(({ expAvgSq }) => expAvgSq)]
      const copies = group[0]!.master ? all(({ parameter }) => parameter.tensor) : []
      const gradients = all(({ parameter }) => parameter.grad!)
      const rates = group.map(({ parameter }) => learningRate * parameter.learningRateScale)
      const decays = group.map(({ parameter }) => parameter.shape.length >= 2 ? weightDecay : 0)
      if (group[0]!.scales) {
        const [firstScales, secondScales] = [all(({ scales }) => scales!.expAvg), all(({ scales }) => scales!.expAvgSq)]
        device.kernels.adamw_8bit(values, first, second, firstScales, secondScales, copies, gradients, factor.handle, rates, beta1, beta2, eps, decays, this.steps)
      } else {
        device.kernels.adamw(values, first, second, copies, gradients, factor.handle, rates, beta1, beta2, eps, decays, this.steps)
      }
    }
    for (const { parameter } of states) parameter.zeroGrad()
    return norm
  }

  /** Writes the state as safetensors: `<parameter>.exp_avg`, `.exp_avg_sq`, in 8 bits their `_scale`, and for 16-bit parameters `.master`. */
  async save(path: string): Promise<void> {
    await saveTensors(path, this.#tensors(), { format: 'pt', step: String(this.steps) })
  }

  /** Reads what save() wrote; throws FileFormatError naming the tensor that does not fit. */
  async load(path: string): Promise<void> {
    const { step } = await loadTensors(path, this.#tensors(), 'other trainable parameters')
    const steps = Number(step)
    if (!Number.isInteger(steps) || steps < 0) throw new FileFormatError(`${path}: the metadata must hold a whole number "step"`)
    this.steps = steps
  }

  *#tensors(): Generator<[string, Tensor]> {
    for (const [name, { expAvg, expAvgSq, scales, master }] of this.#states) {
      yield [`${name}.exp_avg`, expAvg]
      yield [`${name}.exp_avg_sq`, expAvgSq]
      if (scales) {
        yield [`${name}.exp_avg_scale`, scales.expAvg]
        yield [`${name}.exp_avg_sq_scale`, scales.expAvgSq]
      }
      if (master) yield [`${name}.master`, master]
    }
  }

  dispose(): void {
    for (const [, tensor] of this.#tensors()) tensor.dispose()
  }
}

/** The parameters with their names; throws ConfigError where they come without. */
function pairsOf(parameters: Iterable<readonly [string, Parameter]>): (readonly [string, Parameter])[] {
  const pairs = typeof (parameters as Partial<typeof parameters> | undefined)?.[Symbol.iterator] === 'function' ? [...parameters] : [undefined]
  if (pairs.every((pair) => Array.isArray(pair) && pair[1] instanceof Parameter)) return pairs as (readonly [string, Parameter])[]
  throw new ConfigError('AdamW: expected pairs of a name and a parameter, as model.namedParameters() gives')
}

/** The states by what they are kept in: one call updates many of a kind. */
function groupsOf(states: readonly State[]): Iterable<State[]> {
  const groups = new Map<string, State[]>()
  for (const state of states) {
    const kind = `${state.scales !== null} ${state.master !== null}`
    const group = groups.get(kind)
    if (group) group.push(state)
    else groups.set(kind, [state])
  }
  return groups.values()
}

/** Numbers that share a scale, and the fewest that 8 bits are worth, as in bitsandbytes. */
const block = 256
const least8bit = 4096

function createState(parameter: Parameter, stateBits: 32 | 8): State {
  const { device, shape } = parameter
  const master = parameter.dtype === 'float32' ? null : parameter.tensor.copyAs('float32')
  if (stateBits === 32 || parameter.size < least8bit) return { parameter, expAvg: Tensor.zeros(shape, { device }), expAvgSq: Tensor.zeros(shape, { device }), scales: null, master }
  const blocks = [Math.ceil(parameter.size / block)]
  // The code of zero is 127 in the signed map and 0 in the unsigned one.
  const codes = (zero: number): Tensor => Tensor.full(shape, zero, { dtype: 'uint8', device })
  return { parameter, expAvg: codes(127), expAvgSq: codes(0), scales: { expAvg: Tensor.zeros(blocks, { device }), expAvgSq: Tensor.zeros(blocks, { device }) }, master }
}
