import { AdapterPart, normal, Parameter, zeros } from '../nn/index.ts'
import { add, embedding, linear, mul, toDtype, transpose } from '../ops/index.ts'
import { noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import { AdapterEmbedding } from './adapterEmbedding.ts'

/** A [rank, count] and B [width, rank] of an embedding. */
export class LoraEmbeddingPart extends AdapterPart {
  readonly lora_embedding_A: Parameter
  readonly lora_embedding_B: Parameter
  readonly scale: number

  constructor([count, width]: readonly [number, number], rank: number, scale: number) {
    super()
    this.scale = scale
    this.lora_embedding_A = new Parameter([rank, count], zeros)
    this.lora_embedding_B = new Parameter([width, rank], normal(1))
  }
}

/** weight[id] + scale Aᵀ[id] Bᵀ. Equals PEFT's lora.Embedding. */
export class LoraEmbedding extends AdapterEmbedding<LoraEmbeddingPart> {
  override forward(ids: Tensor): Tensor {
    return scope(() => this.active.reduce((y, part) => {
      const rows = embedding(transpose(part.lora_embedding_A.tensor), ids)
      return add(y, toDtype(mul(linear(rows, part.lora_embedding_B.tensor), part.scale), y.dtype))
    }, super.forward(ids)))
  }

  /** weight += scale (B A)ᵀ, in float32 and rounded once. */
  merge(part: LoraEmbeddingPart): void {
    const { weight } = this
    weight.replace(unscoped(() => noGrad(() => scope(() => {
      const change = mul(linear(transpose(part.lora_embedding_A.tensor), part.lora_embedding_B.tensor), part.scale)
      return toDtype(add(toDtype(weight.tensor, 'float32'), change), weight.dtype)
    }))))
  }
}
