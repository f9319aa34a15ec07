import { DisposedError, ShapeError } from '../errors.ts'
import type { Node } from './autograd.ts'
import { defaultDevice, device as deviceOf } from './device.ts'
import type { Device, DeviceLike } from './device.ts'
import { bytesOf, codeOf, isFloat } from './dtype.ts'
import type { DType, TypedArray } from './dtype.ts'
import { scope, track } from './scope.ts'

/** The sizes of a tensor's dimensions, outermost first; [] for a single number. */
export type Shape = readonly number[]

/** One block of native memory with a shape and dtype, shared by a tensor, its aliases and whatever the gradient tape keeps. */
class Storage {
  readonly device: Device
  readonly handle: number
  references = 1
  /** Where this is part of another's memory: that one, which so counts as shared. */
  readonly #source: Storage | null
  constructor(device: Device, handle: number, source: Storage | null = null) {
    this.device = device
    this.handle = handle
    this.#source = source
    if (source) source.references++
  }
  get exclusive(): boolean { return this.references === 1 && (this.#source?.exclusive ?? true) }
  release(forgotten = false): void {
    if (--this.references > 0) return
    this.device.native.release(this.handle, forgotten)
    this.#source?.release(forgotten)
  }
}

/** Frees native memory of tensors that were forgotten outside any scope. A safety net only: it runs when the garbage collector does. */
const forgotten = new FinalizationRegistry<Storage>((storage) => { storage.release(true) })

/** Number of elements of a shape. */
export const sizeOf = (shape: Shape): number => shape.reduce((product, length) => product * length, 1)

/** Of a new tensor: float32 on the default device where nothing is said. */
export interface TensorOptions { dtype?: DType; device?: DeviceLike }

/**
 * An n-dimensional array in native memory, contiguous and row-major. Operations on it are enqueued and return at once; `await data()` waits for
 * the result. Memory is released by `dispose()`, by leaving the `scope()` it was made in, or by `using`.
 */
export class Tensor {
  readonly shape: Shape
  readonly dtype: DType
  /** Whether backward() computes a gradient for this tensor. Set on parameters; results inherit it. */
  requiresGrad = false
  /** The gradient that backward() accumulates into, for tensors whose requiresGrad was set by hand. */
  grad: Tensor | null = null
  /** @internal The operation that made this tensor, and which of its outputs this is. */
  node: Node | null = null
  /** @internal */
  outputIndex = 0
  /** @internal null once disposed. */
  storage: Storage | null

  private constructor(storage: Storage, shape: Shape, dtype: DType) {
    this.storage = storage
    this.shape = shape
    this.dtype = dtype
    if (!track(this)) this.leaveScopes()
  }

  /** @internal From now on no scope holds this tensor: forgetting it is noticed by the garbage collector only. */
  leaveScopes(): void {
    if (this.storage) forgotten.register(this, this.storage, this)
  }

  /** A tensor with arbitrary contents. */
  static empty(shape: Shape, { dtype = 'float32', device = defaultDevice() }: TensorOptions = {}): Tensor {
    const place = deviceOf(device)
    return new Tensor(new Storage(place, place.native.create(codeOf(dtype), shape, place.number)), Object.freeze([...shape]), dtype)
  }

  static full(shape: Shape, value: number, options: TensorOptions = {}): Tensor {
    const tensor = Tensor.empty(shape, options)
    tensor.device.kernels.fill(tensor.handle, value)
    return tensor
  }

  static zeros(shape: Shape, options: TensorOptions = {}): Tensor { return Tensor.full(shape, 0, options) }
  static ones(shape: Shape, options: TensorOptions = {}): Tensor { return Tensor.full(shape, 1, options) }

  /** start, start + step, … along one axis. */
  static arange(length: number, { start = 0, step = 1, ...options }: TensorOptions & { start?: number; step?: number } = {}): Tensor {
    const tensor = Tensor.empty([length], options)
    tensor.device.kernels.iota(tensor.handle, start, step)
    return tensor
  }

  /**
   * A tensor of the given numbers. The dtype defaults to that of a typed array, and to float32 for plain numbers.
   * @throws ShapeError when the shape does not hold exactly these numbers.
   */
  static from(values: TypedArray | readonly number[] | number, shape?: Shape, options: TensorOptions = {}): Tensor {
    const array = typeof values === 'number' ? [values] : values
    const dtype = options.dtype ?? dtypeOfArray(array)
    const wanted = shape ?? (typeof values === 'number' ? [] : [array.length])
    if (sizeOf(wanted) !== array.length) throw new ShapeError(`Tensor.from: shape [${wanted.join(', ')}] holds ${sizeOf(wanted)} numbers, but ${array.length} were given`)
    if (dtype === 'bfloat16' || dtype === 'float16') {
      using wide = Tensor.from(array, wanted, { ...options, dtype: 'float32' })
      return wide.copyAs(dtype)
    }
    const tensor = Tensor.empty(wanted, { ...options, dtype })
    const typed = toTypedArray(array, dtype)
    tensor.device.native.write(tensor.handle, new Uint8Array(typed.buffer, typed.byteOffset, typed.byteLength))
    return tensor
  }

  get device(): Device { return this.live.device }
  get rank(): number { return this.shape.length }
  get size(): number { return sizeOf(this.shape) }
  get bytes(): number { return this.size * bytesOf(this.dtype) }
  get disposed(): boolean { return this.storage === null }

  /** @internal The native handle, for kernel calls. */
  get handle(): number { return this.live.handle }

  private get live(): Storage {
    if (!this.storage) throw new DisposedError(`a tensor of shape [${this.shape.join(', ')}] was used after it was disposed, or after the scope() it was made in ended`)
    return this.storage
  }

  /** Length of an axis; negative axes count from the last. */
  dim(axis: number): number {
    const length = this.shape[axis < 0 ? this.shape.length + axis : axis]
    if (length === undefined) throw new ShapeError(`axis ${axis} does not exist in shape [${this.shape.join(', ')}]`)
    return length
  }

  /** Dtype, shape and device. Not the numbers, which are there later only: `await data()`. */
  toString(): string {
    const where = this.storage ? `on ${this.storage.device.name}` : 'disposed'
    return `Tensor(${this.dtype} [${this.shape.join(', ')}] ${where}${this.requiresGrad ? ', requiresGrad' : ''})`
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string { return this.toString() }

  /** @internal The same numbers in memory of their own, without gradient history; rounded to nearest even where the dtype differs. */
  copyAs(dtype: DType = this.dtype): Tensor {
    const copy = Tensor.empty(this.shape, { dtype, device: this.device })
    this.device.kernels.convert(copy.handle, this.handle)
    return copy
  }

  /** @internal A second tensor over the same memory, without its gradient history. */
  alias(): Tensor {
    const storage = this.live
    storage.references++
    return new Tensor(storage, this.shape, this.dtype)
  }

  /** @internal The memory seen with another shape, from `offset` elements on, without gradient history. */
  viewAs(shape: Shape, offset = 0): Tensor {
    const device = this.device
    const handle = device.native.view(this.handle, offset * bytesOf(this.dtype), codeOf(this.dtype), shape)
    return new Tensor(new Storage(device, handle, this.live), Object.freeze([...shape]), this.dtype)
  }

  /** @internal Whether nothing else shares this memory. */
  get exclusive(): boolean { return this.live.exclusive }

  /** The same numbers without gradient history. Shares the memory. */
  detach(): Tensor { return this.alias() }

  /** Marks this tensor as one to compute a gradient for. Returns it. */
  requiresGrad_(value = true): this {
    if (value && !isFloat(this.dtype)) throw new ShapeError(`only floating-point tensors can have a gradient, not ${this.dtype}`)
    this.requiresGrad = value
    return this
  }

  /** Releases the memory; calling it again does nothing. A gradient tape that still needs the numbers keeps them. */
  dispose(): void {
    const storage = this.storage
    if (!storage) return
    this.storage = null
    forgotten.unregister(this)
    storage.release()
    this.node?.release()
    this.node = null
    this.grad?.dispose()
    this.grad = null
  }

  [Symbol.dispose](): void { this.dispose() }

  /** Overwrites the numbers; the tensor keeps its dtype. */
  copy_(values: TypedArray | readonly number[]): this {
    if (values.length !== this.size) throw new ShapeError(`copy_: the tensor holds ${this.size} numbers, but ${values.length} were given`)
    const source = Tensor.from(values, this.shape, { dtype: this.dtype, device: this.device })
    this.device.kernels.convert(this.handle, source.handle)
    source.dispose()
    return this
  }

  /** The same numbers on another device, without gradient history; this tensor itself where it is there already. */
  to(device: DeviceLike): Tensor {
    const place = deviceOf(device)
    if (place === this.device) return this
    const moved = Tensor.empty(this.shape, { dtype: this.dtype, device: place })
    place.native.copy(moved.handle, this.handle)
    return moved
  }

  /** Copies the numbers to JavaScript once everything enqueued before has run. The 16-bit floats come as float32. */
  async data(): Promise<TypedArray> {
    if (this.dtype === 'bfloat16' || this.dtype === 'float16') {
      return await scope(() => ({ read: this.copyAs('float32').data() })).read
    }
    const buffer = await this.device.native.read(this.handle)
    switch (this.dtype) {
      case 'float32': return new Float32Array(buffer)
      case 'float64': return new Float64Array(buffer)
      case 'int32': return new Int32Array(buffer)
      case 'int64': return new BigInt64Array(buffer)
      case 'uint8': return new Uint8Array(buffer)
    }
  }

  /** The numbers as a plain array. */
  async toArray(): Promise<number[]> { return Array.from(await this.data(), Number) }

  /** The only number of a tensor of size 1. */
  async item(): Promise<number> {
    if (this.size !== 1) throw new ShapeError(`item: the tensor must hold one number, but has shape [${this.shape.join(', ')}]`)
    return Number((await this.data())[0])
  }
}

function dtypeOfArray(values: TypedArray | readonly number[]): DType {
  if (values instanceof Float64Array) return 'float64'
  if (values instanceof Int32Array) return 'int32'
  if (values instanceof BigInt64Array) return 'int64'
  if (values instanceof Uint8Array) return 'uint8'
  return 'float32'
}

function toTypedArray(values: TypedArray | readonly number[], dtype: Exclude<DType, 'bfloat16' | 'float16'>): TypedArray {
  if (dtype === 'int64') return values instanceof BigInt64Array ? values : BigInt64Array.from(values, BigInt)
  // The constructors copy in one pass; TypedArray.from() would go through a JavaScript array.
  const numbers: ArrayLike<number> = values instanceof BigInt64Array ? Array.from(values, Number) : values
  switch (dtype) {
    case 'float32': return numbers instanceof Float32Array ? numbers : new Float32Array(numbers)
    case 'float64': return numbers instanceof Float64Array ? numbers : new Float64Array(numbers)
    case 'int32': return numbers instanceof Int32Array ? numbers : new Int32Array(numbers)
    case 'uint8': return numbers instanceof Uint8Array ? numbers : new Uint8Array(numbers)
  }
}
