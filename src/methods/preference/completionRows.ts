import { gather, mul, reshape, sum } from '../../ops/index.ts'
import { Tensor } from '../../tensor/index.ts'

/**
 * Which log-probabilities of a flat batch belong to which completion. Entry t of model.logprobs() is about the token at t + 1, so a completion's
 * entries begin one token before it.
 */
export interface CompletionSpans {
  /** The first entry of each completion. */
  begins: readonly number[]
  /** How many. */
  lengths: readonly number[]
}

/** Per-token values of a flat batch seen as one row a completion, [rows, longest], and sums over rows; all differentiable. */
export class CompletionRows {
  readonly #spans: CompletionSpans
  readonly #index: Tensor
  readonly #shape: readonly [number, number]
  readonly #like: Tensor

  /** `like` is a tensor [tokens] of the kind that will be summed. */
  constructor(spans: CompletionSpans, like: Tensor) {
    const [rows, width] = [spans.begins.length, Math.max(1, ...spans.lengths)]
    const index = new Int32Array(rows * width)
    // Past a completion's end the row goes on through the batch, where weights are 0.
    spans.begins.forEach((begin, i) => { for (let t = 0; t < width; t++) index[i * width + t] = Math.min(begin + t, like.size - 1) })
    this.#spans = spans
    this.#shape = [rows, width]
    this.#like = like
    this.#index = Tensor.from(index, [index.length], { device: like.device })
  }

  /** [rows, longest] of per-token values [tokens]. */
  of(x: Tensor): Tensor { return reshape(gather(x, this.#index), this.#shape) }

  /** A weight for each token of each completion, by row and place; 0 past the end. */
  weights(weight: (row: number, place: number) => number): Tensor {
    const [rows, width] = this.#shape
    const values = new Float64Array(rows * width)
    this.#spans.lengths.forEach((length, i) => { for (let t = 0; t < length; t++) values[i * width + t] = weight(i, t) })
    return Tensor.from(values, this.#shape, { dtype: this.#like.dtype, device: this.#like.device })
  }

  /** The weighted sum over each completion, [rows]; all weights are 1 by default. */
  sum(x: Tensor, weight: (row: number, place: number) => number = () => 1): Tensor { return sum(mul(this.of(x), this.weights(weight)), [-1]) }

  /** The mean over each completion, [rows]. */
  mean(x: Tensor): Tensor { return this.sum(x, (row) => 1 / this.#spans.lengths[row]!) }

  /** Tokens of each completion, [rows]. */
  get lengths(): Tensor {
    const { dtype, device } = this.#like
    return Tensor.from(this.#spans.lengths, [this.#spans.lengths.length], { dtype, device })
  }
}

/** The weights of LD-DPO (arXiv 2409.06411): tokens past the shorter completion of a pair count `alpha`. Rows are all chosen, then all rejected. */
export function lengthDesensitised({ lengths }: CompletionSpans, alpha: number): (row: number, place: number) => number {
  const pairs = lengths.length / 2
  return (row, place) => (place < Math.min(lengths[row % pairs]!, lengths[row % pairs + pairs]!) ? 1 : alpha)
}
