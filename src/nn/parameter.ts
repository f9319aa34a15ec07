import { createHash } from 'node:crypto'
import { AnnealError, ShapeError } from '../errors.ts'
import { scope, sizeOf, Tensor, unscoped, type Device, type DType, type Shape } from '../tensor/index.ts'

/** What a parameter holds before training, as transformers initialises it. */
export type Initialisation =
  | { readonly kind: 'constant', readonly value: number }
  /** Normal with mean 0; `zeroRow` is the row of the padding token. */
  | { readonly kind: 'normal', readonly deviation: number, readonly zeroRow?: number }
  /** Uniform from -bound to bound. */
  | { readonly kind: 'uniform', readonly bound: number }

export const zeros: Initialisation = { kind: 'constant', value: 0 }
export const ones: Initialisation = { kind: 'constant', value: 1 }
export const normal = (deviation: number): Initialisation => ({ kind: 'normal', deviation })
export const uniform = (bound: number): Initialisation => ({ kind: 'uniform', bound })

/** Streams of parameters lie above those that dropout counts up from 0. */
const firstParameterStream = 2 ** 48

/** The stream of random numbers that belongs to a name: the same whatever else the model holds. */
function streamOf(name: string): number {
  return firstParameterStream + createHash('sha256').update(name).digest().readUIntBE(0, 6)
}

/**
 * A trainable tensor and its place in a model. It has a shape from the start; its memory comes with initialise() or with loading, so that a
 * model can be compared with a file before anything is allocated. Two modules that share one Parameter are tied.
 */
export class Parameter {
  readonly shape: Shape
  readonly initialisation: Initialisation
  /** The learning rate of this parameter is the run's times this. */
  learningRateScale = 1
  #tensor: Tensor | null = null
  #requiresGrad = true

  constructor(shape: Shape, initialisation: Initialisation) {
    this.shape = Object.freeze([...shape])
    this.initialisation = initialisation
  }

  get size(): number { return sizeOf(this.shape) }

  /** Whether it has memory. */
  get isMaterialised(): boolean { return this.#tensor !== null }

  /** The numbers. Throws before initialise() or loading, and after dispose(). */
  get tensor(): Tensor {
    if (!this.#tensor) {
      throw new AnnealError('ERR_PARAMETER', `a parameter of shape [${this.shape.join(', ')}] has no values: it was never initialised or loaded, or its model was disposed`)
    }
    return this.#tensor
  }

  get dtype(): DType { return this.tensor.dtype }
  get device(): Device { return this.tensor.device }

  /** The gradient backward() accumulated, float32 for 16-bit parameters; null where there is none. */
  get grad(): Tensor | null { return this.#tensor?.grad ?? null }

  get requiresGrad(): boolean { return this.#requiresGrad }
  set requiresGrad(value: boolean) {
    this.#requiresGrad = value
    this.#tensor?.requiresGrad_(value)
    if (!value) this.zeroGrad()
  }

  /** Puts another tensor of the same shape in place, of any float dtype, and releases the old one and its gradient. */
  replace(tensor: Tensor): void {
    if (tensor.shape.length !== this.shape.length || tensor.shape.some((length, i) => length !== this.shape[i])) {
      throw new ShapeError(`a parameter of shape [${this.shape.join(', ')}] cannot take a tensor of shape [${tensor.shape.join(', ')}]`)
    }
    const old = this.#tensor
    this.#tensor = tensor.requiresGrad_(this.#requiresGrad)
    if (old !== tensor) old?.dispose()
  }

  /** Gives up the tensor without releasing it, for a caller that keeps it. */
  detach(): Tensor {
    const { tensor } = this
    this.#tensor = null
    return tensor
  }

  /** Fills it with its initial values. They depend on seed, name and shape only; a 16-bit parameter holds the rounded float32 values. */
  initialise(name: string, seed: number, dtype: DType, device: Device): void {
    const { initialisation: start, shape } = this
    this.replace(unscoped(() => scope(() => {
      if (start.kind === 'constant') return Tensor.full(shape, start.value, { dtype, device })
      const values = Tensor.empty(shape, { device })
      if (start.kind === 'uniform') device.kernels.random_uniform(values.handle, -start.bound, start.bound, seed, streamOf(name))
      else device.kernels.random_normal(values.handle, 0, start.deviation, seed, streamOf(name))
      if (start.kind === 'normal' && start.zeroRow !== undefined) {
        device.kernels.fill(values.viewAs(shape.slice(1), start.zeroRow * sizeOf(shape.slice(1))).handle, 0)
      }
      return dtype === 'float32' ? values : values.copyAs(dtype)
    })))
  }

  /** Changes the dtype, rounding to nearest even. The gradient is dropped. */
  to(dtype: DType): void {
    const tensor = this.#tensor
    if (tensor && tensor.dtype !== dtype) this.replace(unscoped(() => tensor.copyAs(dtype)))
  }

  zeroGrad(): void {
    if (!this.#tensor) return
    this.#tensor.grad?.dispose()
    this.#tensor.grad = null
  }

  dispose(): void {
    this.#tensor?.dispose()
    this.#tensor = null
  }
}
