import { embedding } from '../ops/embedding.ts'
import type { Device, DType, Tensor } from '../tensor/index.ts'
import { Module } from './module.ts'
import { normal, Parameter } from './parameter.ts'

/** What stands where a model has an embedding: ids int32 [tokens] to rows [tokens, width]. */
export abstract class EmbeddingLayer extends Module {
  /** How many rows there are. */
  abstract readonly count: number
  abstract readonly width: number
  /** Of the rows that forward() gives. */
  abstract readonly dtype: DType
  abstract readonly device: Device
  abstract forward(ids: Tensor): Tensor
}

/** weight[id], weight [count, width]. The row of `paddingIdx` starts at 0; unlike torch's it is trained where that id is a real token. */
export class Embedding extends EmbeddingLayer {
  weight: Parameter

  constructor(count: number, width: number, { deviation = 0.02, paddingIdx }: { deviation?: number, paddingIdx?: number | undefined } = {}) {
    super()
    const hasPadding = paddingIdx !== undefined && paddingIdx < count
    this.weight = new Parameter([count, width], hasPadding ? { kind: 'normal', deviation, zeroRow: paddingIdx } : normal(deviation))
  }

  get count(): number { return this.weight.shape[0]! }
  get width(): number { return this.weight.shape[1]! }
  get dtype(): DType { return this.weight.dtype }
  get device(): Device { return this.weight.device }

  forward(ids: Tensor): Tensor { return embedding(this.weight.tensor, ids) }
}
