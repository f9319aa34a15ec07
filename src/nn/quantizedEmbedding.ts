import { quantizedEmbedding, type QuantizedTensor } from '../ops/index.ts'
import type { Device, DType, Tensor } from '../tensor/index.ts'
import { EmbeddingLayer } from './embedding.ts'

/**
 * Rows of a table in a few bits a number, widened as they are looked up. The output layer that is tied to it has the same weight and counts its numbers.
 * The weight is no parameter: nothing trains it.
 */
export class QuantizedEmbedding extends EmbeddingLayer {
  weight: QuantizedTensor
  dtype: DType

  /** Shares `weight`, and gives rows in `dtype`. */
  constructor(weight: QuantizedTensor, dtype: DType) {
    super()
    this.weight = weight
    this.dtype = dtype
  }

  get count(): number { return this.weight.shape[0]! }
  get width(): number { return this.weight.shape[1]! }
  get device(): Device { return this.weight.codes.device }

  forward(ids: Tensor): Tensor { return quantizedEmbedding(this.weight, ids, this.dtype) }

  override dispose(): void {
    this.weight.dispose()
    super.dispose()
  }
}
