import { AnnealError, ShapeError } from '../errors.ts'
import type { DType } from './dtype.ts'
import { scope, unscoped } from './scope.ts'
import { Tensor } from './tensor.ts'

/** Where the gradient of one input goes: to the node that made it, or to a leaf's grad. */
interface Edge { readonly node: Node | null; readonly leaf: Tensor | null; readonly index: number }

/** What a backward function works with. */
export interface BackwardContext {
  /** The tensors that forward saved, in order. */
  readonly saved: readonly Tensor[]
  /** Whether input i wants a gradient. */
  needs(i: number): boolean
  /** Hands over the gradient of input i; it is added to what is there. */
  give(i: number, gradient: Tensor): void
  /** Memory for the gradient of input i, for kernels that write or accumulate in place: float32, unless `dtype` says otherwise for what is no leaf. */
  target(i: number, dtype?: DType): { tensor: Tensor; accumulate: boolean }
}

export type BackwardFunction = (gradients: readonly (Tensor | null)[], context: BackwardContext) => void

let counter = 0
let recording = true

/** Whether operations are being recorded for backward(). */
export const isRecording = (): boolean => recording

function withRecording<T>(value: boolean, body: () => T): T {
  const before = recording
  recording = value
  try {
    return body()
  } finally {
    recording = before
  }
}

/** Runs `body` without recording gradients, as torch.no_grad does. `body` must be synchronous. */
export const noGrad = <T>(body: () => T): T => withRecording(false, body)

/** Runs `body` recording gradients even inside noGrad. */
export const enableGrad = <T>(body: () => T): T => withRecording(true, body)

/** One recorded operation. Alive while one of its outputs, or a later operation that needs it, is. */
export class Node implements BackwardContext {
  readonly name: string
  readonly order = counter++
  readonly edges: readonly (Edge | null)[]
  readonly #backward: BackwardFunction
  #saved: Tensor[]
  /** The gradients of the outputs that have arrived so far. */
  readonly gradients: (Tensor | null)[]
  #references: number
  finished = false

  constructor(name: string, inputs: readonly (Tensor | null)[], outputs: readonly Tensor[], saved: readonly Tensor[], backward: BackwardFunction) {
    this.name = name
    this.edges = inputs.map((input) => {
      if (!input?.requiresGrad) return null
      input.node?.retain()
      return { node: input.node, leaf: input.node ? null : input, index: input.outputIndex }
    })
    this.#backward = backward
    this.#saved = unscoped(() => saved.map((tensor) => tensor.alias()))
    this.gradients = outputs.map(() => null)
    this.outputs = outputs.map(({ shape, dtype }) => ({ shape, dtype }))
    this.#references = outputs.length
    outputs.forEach((output, i) => {
      output.node = this
      output.outputIndex = i
      output.requiresGrad = true
    })
  }

  get saved(): readonly Tensor[] { return this.#saved }
  needs(i: number): boolean { return this.edges[i] != null }

  retain(): void { this.#references++ }
  release(): void {
    if (--this.#references > 0) return
    this.free()
    for (const edge of this.edges) edge?.node?.release()
  }

  /** Releases what only this node's backward needs. */
  free(): void {
    for (const tensor of this.#saved) tensor.dispose()
    this.#saved = []
    for (const gradient of this.gradients) gradient?.dispose()
    this.gradients.fill(null)
  }

  run(): void {
    if (this.finished) throw new AnnealError('ERR_AUTOGRAD', `backward ran twice through ${this.name}; its saved tensors are gone. Compute the loss again`)
    this.finished = true
    if (this.gradients.some((gradient) => gradient !== null)) scope(() => { this.#backward(this.gradients.map((gradient, i) => this.#inDtype(gradient, i)), this) })
    this.free()
  }

  /** The gradient of output i in that output's dtype: kernels and parameters accumulate in float32. */
  #inDtype(gradient: Tensor | null, i: number): Tensor | null {
    const { dtype } = this.outputs[i]!
    return !gradient || gradient.dtype === dtype ? gradient : gradient.copyAs(dtype)
  }

  give(i: number, gradient: Tensor): void {
    const edge = this.edges[i]
    if (!edge) return
    const present = edge.leaf ? edge.leaf.grad : edge.node!.gradients[edge.index]!
    if (!present) {
      const leaf = edge.leaf
      // A leaf's gradient is its own memory in float32: it outlives the graph and is accumulated into.
      const shares = !leaf || (gradient.dtype === gradientDtype(leaf) && gradient.exclusive)
      this.#put(edge, unscoped(() => shares ? gradient.alias() : gradient.copyAs(gradientDtype(leaf))))
    } else if (edge.leaf || present.exclusive) {
      present.device.kernels.add_into(present.handle, gradient.handle)
    } else {
      const total = unscoped(() => present.copyAs())
      total.device.kernels.add_into(total.handle, gradient.handle)
      present.dispose()
      this.#put(edge, total)
    }
  }

  target(i: number, inner: DType = 'float32'): { tensor: Tensor; accumulate: boolean } {
    const edge = this.edges[i]
    if (!edge) throw new AnnealError('ERR_AUTOGRAD', `${this.name}: input ${i} wants no gradient`)
    const present = edge.leaf ? edge.leaf.grad : edge.node!.gradients[edge.index]!
    if (present && (edge.leaf || present.exclusive)) return { tensor: present, accumulate: true }
    if (present) {
      const sum = unscoped(() => present.copyAs())
      present.dispose()
      this.#put(edge, sum)
      return { tensor: sum, accumulate: true }
    }
    const shape = edge.leaf ? edge.leaf.shape : edge.node!.outputs[edge.index]!.shape
    const dtype = edge.leaf ? gradientDtype(edge.leaf) : inner
    const tensor = unscoped(() => Tensor.empty(shape, { dtype, device: edge.leaf?.device ?? this.#saved[0]!.device }))
    this.#put(edge, tensor)
    return { tensor, accumulate: false }
  }

  /** What the outputs are. */
  readonly outputs: readonly { shape: readonly number[]; dtype: DType }[]

  #put(edge: Edge, gradient: Tensor): void {
    if (edge.leaf) edge.leaf.grad = gradient
    else edge.node!.gradients[edge.index] = gradient
  }
}

/** Gradients of 16-bit leaves are kept in float32. */
const gradientDtype = (leaf: Tensor): 'float32' | 'float64' => leaf.dtype === 'float64' ? 'float64' : 'float32'

/** Records that `outputs` came from `inputs`, if recording and any input wants a gradient. */
export function record(
  name: string, inputs: readonly (Tensor | null)[], outputs: readonly Tensor[], saved: readonly Tensor[], backward: BackwardFunction,
): void {
  if (!recording || !inputs.some((input) => input?.requiresGrad)) return
  new Node(name, inputs, outputs, saved, backward)
}

const impliedOnes = new WeakSet<object>()

/** Whether this is the gradient of 1 with which backward() starts, so that a kernel may skip multiplying by it. */
export const isImpliedOne = (gradient: Tensor): boolean => gradient.storage !== null && impliedOnes.has(gradient.storage)

function reachable(root: Node): Node[] {
  const seen = new Set<Node>([root])
  const stack = [root]
  for (let node = stack.pop(); node; node = stack.pop()) {
    for (const edge of node.edges) {
      if (edge?.node && !seen.has(edge.node)) {
        seen.add(edge.node)
        stack.push(edge.node)
      }
    }
  }
  // A node is made after those it depends on.
  return [...seen].sort((a, b) => b.order - a.order)
}

/**
 * Computes d(root)/d(leaf) for every leaf with requiresGrad and adds it to the leaf's `grad`.
 * `gradient` is d(objective)/d(root); it defaults to 1 for a root of one element. What the graph saved is released as the pass goes.
 */
export function backward(root: Tensor, gradient?: Tensor): void { backwardAll([root], gradient ? [gradient] : undefined) }

/** backward() from several tensors at once. */
export function backwardAll(roots: readonly Tensor[], gradients?: readonly (Tensor | null)[]): void {
  for (const root of roots) {
    if (!root.node) throw new AnnealError('ERR_AUTOGRAD', 'backward: the tensor does not depend on any tensor with requiresGrad, or was computed in noGrad()')
    if (!gradients && root.size !== 1) throw new ShapeError(`backward: a tensor of shape [${root.shape.join(', ')}] needs a gradient of that shape; only a single number has an implied gradient of 1`)
  }
  noGrad(() => {
    const nodes = new Set<Node>()
    roots.forEach((root, i) => {
      const given = gradients ? gradients[i] : Tensor.ones(root.shape, { dtype: root.dtype, device: root.device })
      if (!given) return
      const node = root.node!
      if (!gradients) impliedOnes.add(given.storage!)
      const present = node.gradients[root.outputIndex]
      if (present) {
        impliedOnes.delete(present.storage!)
        present.device.kernels.add_into(present.handle, given.handle)
      }
      else node.gradients[root.outputIndex] = unscoped(() => given.alias())
      if (!gradients) given.dispose()
      for (const reached of reachable(node)) nodes.add(reached)
    })
    const order = [...nodes].sort((a, b) => b.order - a.order)
    for (const node of order) node.retain()
    try {
      for (const node of order) node.run()
    } finally {
      for (const node of order) {
        node.free()
        node.release()
      }
    }
  })
}
