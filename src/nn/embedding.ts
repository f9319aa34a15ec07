import { embedding } from '../ops/embedding.ts'
import type { Tensor } from '../tensor/index.ts'
import { Module } from './module.ts'
import { normal, Parameter } from './parameter.ts'

/** weight[id], weight [count, width]. The row of `paddingIdx` starts at 0; unlike torch's it is trained where that id is a real token. */
export class Embedding extends Module {
  weight: Parameter

  constructor(count: number, width: number, { deviation = 0.02, paddingIdx }: { deviation?: number, paddingIdx?: number | undefined } = {}) {
    super()
    const hasPadding = paddingIdx !== undefined && paddingIdx < count
    this.weight = new Parameter([count, width], hasPadding ? { kind: 'normal', deviation, zeroRow: paddingIdx } : normal(deviation))
  }

  /** ids int32 [tokens] to [tokens, width]. */
  forward(ids: Tensor): Tensor { return embedding(this.weight.tensor, ids) }
}
