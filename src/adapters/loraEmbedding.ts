import { Embedding, normal, Parameter, zeros, AdapterPart } from '../nn/index.ts'
import { add, embedding, linear, mul, toDtype, transpose } from '../ops/index.ts'
import { noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'

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

/** weight[id] + scale Aᵀ[id] Bᵀ. It shares the weight of the embedding whose place it takes; equals PEFT's lora.Embedding. */
export class LoraEmbedding extends Embedding {
  readonly base_layer: Embedding
  readonly #parts = new Map<string, LoraEmbeddingPart>()

  constructor(base: Embedding) {
    super(base.weight.shape[0]!, base.weight.shape[1]!)
    this.weight = base.weight
    this.base_layer = base
    this.training = base.training
  }

  get parts(): ReadonlyMap<string, LoraEmbeddingPart> { return this.#parts }

  set(name: string, part: LoraEmbeddingPart): void {
    this.#parts.set(name, part)
    Object.assign(this, { [`adapter_${name}`]: part })
  }

  delete(name: string): void {
    this.#parts.get(name)?.dispose()
    this.#parts.delete(name)
    Reflect.deleteProperty(this, `adapter_${name}`)
  }

  override forward(ids: Tensor): Tensor {
    return scope(() => {
      let y = super.forward(ids)
      for (const part of this.#parts.values()) {
        if (!part.active) continue
        const rows = embedding(transpose(part.lora_embedding_A.tensor), ids)
        y = add(y, toDtype(mul(linear(rows, part.lora_embedding_B.tensor), part.scale), y.dtype))
      }
      return y
    })
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
