import { ConfigError } from '../errors.ts'
import { linearLayers, type CausalLanguageModel, type TokenArray } from '../models/index.ts'
import type { LayerOutput, ResidualLayer } from '../models/layers.ts'
import { LinearLayer, Module } from '../nn/index.ts'
import { abs, add, sum, toDtype } from '../ops/index.ts'
import { noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'

/** What a linear layer's inputs are like. */
export interface InputStatistics {
  /** Xᵀ X over all tokens, float32 [in, in]. Layers that get the same input share it. */
  readonly gram: Tensor
  /** The sum of |x| over all tokens, float32 [in]. */
  readonly magnitude: Tensor
}

/** Stands in for a layer and adds up what comes in. */
class RecordingLayer extends LinearLayer {
  readonly inner: LinearLayer
  readonly #siblings: RecordingLayer[]
  #statistics: InputStatistics | null = null
  #leader: RecordingLayer | null = null
  #last: Tensor | null = null

  constructor(inner: LinearLayer, siblings: RecordingLayer[]) {
    super()
    this.inner = inner
    this.#siblings = siblings
    siblings.push(this)
  }

  get inFeatures(): number { return this.inner.inFeatures }
  get outFeatures(): number { return this.inner.outFeatures }
  get statistics(): InputStatistics { return this.#leader?.statistics ?? this.#statistics! }

  forward(x: Tensor, activation?: Parameters<LinearLayer['forward']>[1]): Tensor {
    this.#last = x
    this.#leader ??= this.#statistics ? null : this.#siblings.find((one) => one !== this && one.#statistics !== null && one.#last === x) ?? null
    if (!this.#leader) this.#record(x)
    return this.inner.forward(x, activation)
  }

  #record(x: Tensor): void {
    const first = this.#statistics === null
    const { device } = x
    const gram = this.#statistics?.gram ?? unscoped(() => Tensor.empty([this.inFeatures, this.inFeatures], { device }))
    const before = this.#statistics?.magnitude
    const wide = toDtype(x, 'float32')
    device.kernels.gemm(gram.handle, 0, wide.handle, wide.handle, 0, true, false, !first, 0, false)
    const own = scope(() => sum(abs(wide), [0]))
    const magnitude = unscoped(() => (before ? add(before, own) : own.alias()))
    before?.dispose()
    this.#statistics = { gram, magnitude }
  }

  override dispose(): void {
    this.#statistics?.gram.dispose()
    this.#statistics?.magnitude.dispose()
  }
}

/** Gives what was kept instead of computing it. */
class ReplayedLayer extends Module implements ResidualLayer {
  input: Tensor | null = null
  forward(): LayerOutput { return [this.input!, Tensor.zeros(this.input!.shape, { dtype: this.input!.dtype, device: this.input!.device }), this.input!] }
}

const stopped = Symbol('the rest of the model is not needed')

/** Keeps what comes in and ends the forward pass. */
class KeepingLayer extends Module implements ResidualLayer {
  #kept: Tensor | null = null

  /** What came in since the last call. */
  take(): Tensor | null {
    const kept = this.#kept
    this.#kept = null
    return kept
  }

  forward(branch: Tensor, residual: Tensor | null): LayerOutput {
    this.#kept = unscoped(() => (residual ? add(branch, residual) : branch.alias()))
    // eslint-disable-next-line @typescript-eslint/only-throw-error -- no error: it unwinds the forward pass
    throw stopped
  }
}

/** The list that holds the layers of a model: model.layers, or transformer.h. */
function layerList(model: CausalLanguageModel): string {
  const lists = new Set([...linearLayers(model).keys()].map((name) => /^(.*?)\.\d+\./.exec(name)?.[1] ?? ''))
  const [list] = lists
  if (lists.size !== 1 || !list) throw new ConfigError('calibration: expected a model whose linear layers lie in one list of layers')
  return list
}

/**
 * Takes a model through calibration sequences layer by layer, as GPTQ does: `visit` gets the statistics of each linear layer's inputs, by the layer's
 * name, and may replace them; the next layer sees what the replaced ones give. Each layer runs twice, whatever their number.
 */
export async function layerByLayer(model: CausalLanguageModel, sequences: readonly TokenArray[], visit: (inputs: ReadonlyMap<string, InputStatistics>) => Promise<void>): Promise<void> {
  if (!sequences.length || sequences.some((ids) => ids.length === 0)) throw new ConfigError('calibration: expected sequences of tokens to calibrate with, got none, or an empty one')
  const list = layerList(model)
  const count = new Set([...linearLayers(model).keys()].map((name) => name.slice(0, name.indexOf('.', list.length + 1)))).size
  const layers = Array.from({ length: count }, (_, i) => model.getModule(`${list}.${i}`))
  const [replayed, keeping] = [new ReplayedLayer(), new KeepingLayer()]
  const training = model.training
  let hidden: Tensor[] = []
  const put = (i: number, module: Module): void => { model.replaceModule(`${list}.${i}`, module) }
  /** Runs one layer on every sequence; -1: none, only the embeddings. Returns what it gives, but of the last layer. */
  const run = (layer: number): Tensor[] => {
    layers.forEach((module, i) => { put(i, i < layer ? replayed : i === layer ? module : keeping) })
    const results: Tensor[] = []
    for (const [i, ids] of sequences.entries()) {
      replayed.input = hidden[i] ?? null
      try {
        noGrad(() => { scope(() => { model.forward({ inputIds: [ids], logitsToKeep: 1 }) }) })
      } catch (error) {
        if (error !== stopped) throw error
      }
      const kept = keeping.take()
      if (kept) results.push(kept)
    }
    return results
  }
  const forget = (tensors: readonly Tensor[]): void => { for (const tensor of tensors) tensor.dispose() }
  model.eval()
  try {
    const embedded = run(-1)
    // Layer 0 has nothing before it that replays: it gets the embeddings anew each time.
    hidden = embedded
    for (let i = 0; i < count; i++) {
      const recorders: RecordingLayer[] = []
      const recording = new Map<string, RecordingLayer>()
      layers.forEach((module, j) => { put(j, module) })
      for (const [name, linear] of linearLayers(model)) if (name.startsWith(`${list}.${i}.`)) recording.set(name, new RecordingLayer(linear, recorders))
      for (const [name, recorder] of recording) model.replaceModule(name, recorder)
      try {
        forget(run(i))
      } finally {
        layers.forEach((module, j) => { put(j, module) })
        for (const [name, { inner }] of recording) model.replaceModule(name, inner)
      }
      try {
        await model.device.fence()
        await visit(new Map([...recording].map(([name, recorder]) => [name, recorder.statistics])))
      } finally {
        for (const recorder of recorders) recorder.dispose()
      }
      if (i === count - 1) break
      const next = run(i)
      forget(hidden)
      hidden = next
    }
  } finally {
    layers.forEach((module, i) => { put(i, module) })
    forget(hidden)
    model.train(training)
  }
}
