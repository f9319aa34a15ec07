import { LinearLayer } from './linear.ts'
import { Module } from './module.ts'

/** What one adapter adds to one layer. */
export abstract class AdapterPart extends Module {
  /** Whether the layer applies it. */
  active = false
}

/** The parts of a layer by the names of their adapters. */
class AdapterParts<P extends AdapterPart> extends Module {
  readonly #parts = new Map<string, P>()

  get(name: string): P | undefined { return this.#parts.get(name) }
  get size(): number { return this.#parts.size }
  get values(): P[] { return [...this.#parts.values()] }

  set(name: string, part: P): void {
    this.#parts.set(name, part)
    Object.assign(this, { [name]: part })
  }

  delete(name: string): void {
    this.#parts.delete(name)
    Reflect.deleteProperty(this, name)
  }
}

/** A linear layer with adapters around it. `base_layer` is the layer as it was, which may itself be one of these. */
export abstract class AdapterLayer<P extends AdapterPart = AdapterPart> extends LinearLayer {
  base_layer: LinearLayer
  readonly adapters = new AdapterParts<P>()

  constructor(base: LinearLayer) {
    super()
    this.base_layer = base
    this.training = base.training
  }

  get inFeatures(): number { return this.base_layer.inFeatures }
  get outFeatures(): number { return this.base_layer.outFeatures }
  /** The parts that forward() applies, in the order in which they were added. */
  get active(): P[] { return this.adapters.values.filter((part) => part.active) }
}
