import { type AdapterPart, Embedding } from '../nn/index.ts'

/** An embedding with parts of adapters around it. It shares the weight of the one whose place it takes, and holds a part as `adapter_` and its adapter's name. */
export abstract class AdapterEmbedding<P extends AdapterPart> extends Embedding {
  readonly base_layer: Embedding
  readonly #parts = new Map<string, P>()

  constructor(base: Embedding) {
    super(base.weight.shape[0]!, base.weight.shape[1]!)
    this.weight = base.weight
    this.base_layer = base
    this.training = base.training
  }

  /** The parts by the names of their adapters. */
  get parts(): ReadonlyMap<string, P> { return this.#parts }
  /** The parts that forward() applies, in the order in which they were added. */
  get active(): P[] { return [...this.#parts.values()].filter((part) => part.active) }

  set(name: string, part: P): void {
    this.#parts.set(name, part)
    Object.assign(this, { [`adapter_${name}`]: part })
  }

  delete(name: string): void {
    this.#parts.get(name)?.dispose()
    this.#parts.delete(name)
    Reflect.deleteProperty(this, `adapter_${name}`)
  }
}
