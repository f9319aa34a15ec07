import { ConfigError } from '../errors.ts'
import { AdapterLayer, AdapterPart, Linear, Parameter, zeros, type LinearLayer } from '../nn/index.ts'
import type { Activation } from '../nn/linear.ts'
import { activation as activate, add, broadcastTo, embedding, linear, reshape, toDtype, where } from '../ops/index.ts'
import { record } from '../tensor/autograd.ts'
import { noGrad, scope, Tensor, unscoped, type Device } from '../tensor/index.ts'
import { AdapterEmbedding } from './adapterEmbedding.ts'

/** The rows of some tokens in a table [vocabulary, width], trained in the place of the table's own: PEFT's trainable_tokens_delta [tokens, width]. */
export class TokensPart extends AdapterPart {
  readonly trainable_tokens_delta: Parameter
  readonly ids: readonly number[]
  /** int32 [tokens]. */
  readonly #ids: Tensor
  /** For each of the vocabulary its row here, 0 where it has none: int32 [vocabulary]. */
  readonly #slots: Tensor
  /** 1 where it has one: float32 [vocabulary, 1]. */
  readonly #mask: Tensor

  constructor(ids: readonly number[], [vocabulary, width]: readonly [number, number], device: Device) {
    super()
    this.ids = ids
    this.trainable_tokens_delta = new Parameter([ids.length, width], zeros)
    const [slots, mask] = [new Int32Array(vocabulary), new Float32Array(vocabulary)]
    ids.forEach((id, slot) => { [slots[id], mask[id]] = [slot, 1] })
    const kept = (values: Int32Array | Float32Array, shape: readonly number[]): Tensor => unscoped(() => Tensor.from(values, shape, { device }))
    this.#ids = kept(Int32Array.from(ids), [ids.length])
    this.#slots = kept(slots, [vocabulary])
    this.#mask = kept(mask, [vocabulary, 1])
  }

  /** Starts from the table's own rows. */
  startFrom(table: Parameter): void {
    this.trainable_tokens_delta.replace(unscoped(() => noGrad(() => scope(() => toDtype(embedding(table.tensor, this.#ids), 'float32').alias()))))
  }

  /** y [tokens, width], rows of the table, with those of trained tokens in their place. */
  inRows(y: Tensor, ids: Tensor): Tensor {
    const slot = Tensor.empty(ids.shape, { dtype: 'int32', device: ids.device })
    slot.device.kernels.gather_last(slot.handle, this.#slots.handle, ids.handle)
    const rows = embedding(this.trainable_tokens_delta.tensor, slot)
    return where(broadcastTo(embedding(this.#mask, ids), y.shape), toDtype(rows, y.dtype), y)
  }

  /** y [tokens, vocabulary], products of x with the table, with those of trained rows in their place. `bias` [vocabulary] is in y already. */
  inColumns(y: Tensor, x: Tensor, bias: Tensor | null): Tensor {
    const products = linear(x, toDtype(this.trainable_tokens_delta.tensor, x.dtype))
    const own = bias ? add(products, toDtype(reshape(embedding(reshape(bias, [-1, 1]), this.#ids), [-1]), products.dtype)) : products
    return where(broadcastTo(reshape(this.#mask, [1, -1]), y.shape), this.#spread(toDtype(own, y.dtype)), y)
  }

  /** y [tokens, own rows] to the columns of the vocabulary; only those of trained tokens mean something and have a gradient. */
  #spread(y: Tensor): Tensor {
    const wide = Tensor.empty([y.dim(0), this.#slots.size], { dtype: y.dtype, device: y.device })
    wide.device.kernels.gather_last(wide.handle, y.handle, this.#slots.handle)
    const ids = this.#ids
    record('gather_last', [y], [wide], [], ([gradient], context) => {
      const dy = Tensor.empty(y.shape, { dtype: gradient!.dtype, device: gradient!.device })
      dy.device.kernels.gather_last(dy.handle, gradient!.handle, ids.handle)
      context.give(0, dy)
    })
    return wide
  }

  /** Writes the rows into the table for good. */
  mergeInto(table: Parameter): void {
    noGrad(() => { scope(() => { table.device.kernels.scatter_rows(table.tensor.handle, toDtype(this.trainable_tokens_delta.tensor, table.dtype).handle, this.#ids.handle) }) })
  }

  override dispose(): void {
    super.dispose()
    for (const tensor of [this.#ids, this.#slots, this.#mask]) tensor.dispose()
  }
}

/** Two active adapters may train different tokens of one table. */
export function refuseOverlap(path: string, parts: Iterable<TokensPart>): void {
  const seen = new Set<number>()
  for (const part of parts) {
    if (!part.active) continue
    for (const id of part.ids) {
      if (seen.has(id)) throw new ConfigError(`trainableTokenIndices: token ${id} of ${path} is trained by two active adapters; switch one off first`)
      seen.add(id)
    }
  }
}

/** An embedding some rows of which adapters train; equals PEFT's TrainableTokensLayer. */
export class TokensEmbedding extends AdapterEmbedding<TokensPart> {
  override forward(ids: Tensor): Tensor {
    return scope(() => this.active.reduce((y, part) => part.inRows(y, ids), super.forward(ids)))
  }
}

/** The part of an output layer: rows of its own, or those of the embedding that it is tied to. */
export class HeadPart extends AdapterPart {
  readonly #rows: TokensPart
  /** Its own rows, which are released with it; null where they are the embedding's. */
  readonly tokens: TokensPart | null

  constructor(rows: TokensPart, isTied: boolean) {
    super()
    this.#rows = rows
    this.tokens = isTied ? null : rows
  }

  get rows(): TokensPart { return this.#rows }
}

/** An output layer some rows of which adapters train. */
export class TokensHead extends AdapterLayer<HeadPart> {
  constructor(base: LinearLayer) {
    if (!(base instanceof Linear || base instanceof TokensHead)) throw new ConfigError('trainableTokenIndices: the output layer carries another adapter; train its tokens alone, or the layer whole with modulesToSave')
    super(base)
  }

  forward(x: Tensor, activation: Activation = 'none'): Tensor {
    const bias = this.base_layer instanceof Linear ? this.base_layer.bias?.tensor ?? null : null
    const y = scope(() => this.active.reduce((sum, { rows }) => rows.inColumns(sum, x, bias), this.base_layer.forward(x)))
    return activation === 'none' ? y : activate(y, activation)
  }
}
