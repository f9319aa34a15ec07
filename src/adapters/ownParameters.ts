import { ConfigError } from '../errors.ts'
import { AdapterLayer, Parameter, type Module } from '../nn/index.ts'
import { unscoped } from '../tensor/index.ts'
import { innermost, sites } from './targets.ts'

interface OwnParameter { readonly module: Module, readonly key: string, readonly base: Parameter, readonly own: Parameter }

/**
 * Parameters of the model that an adapter trains for itself: biases, or whole modules. The model holds a copy while the adapter is active, and its own
 * parameter else, so that switching the adapter off gives back the model as it was.
 */
export class OwnParameters {
  readonly #all = new Map<string, OwnParameter>()

  /** Copies every parameter, directly in a module, whose name fits. */
  constructor(model: Module, isMeant: (name: string) => boolean, dtype: 'float32' | 'kept' = 'kept') {
    for (const [path, site] of sites(model)) {
      const module = site instanceof AdapterLayer ? innermost(site) : site
      for (const [key, base] of Object.entries(module) as [string, unknown][]) {
        if (!(base instanceof Parameter)) continue
        const name = path ? `${path}.${key}` : key
        if (!isMeant(name) || this.#all.has(name)) continue
        const own = new Parameter(base.shape, base.initialisation)
        own.replace(unscoped(() => base.tensor.copyAs(dtype === 'kept' ? base.dtype : dtype)))
        this.#all.set(name, { module, key, base, own })
      }
    }
  }

  get size(): number { return this.#all.size }
  get parameters(): [string, Parameter][] { return [...this.#all].map(([name, { own }]) => [name, own]) }

  activate(on: boolean): void {
    for (const [name, { module, key, base, own }] of this.#all) {
      const now = (module as unknown as Record<string, unknown>)[key]
      if (on && now !== base && now !== own) throw new ConfigError(`${name}: two active adapters train it; switch one off first`)
      if (on || now === own) Object.assign(module, { [key]: on ? own : base })
    }
  }

  /** Gives the values to the model for good. What was tied to one of them no longer is. */
  merge(model: Module): void {
    this.activate(false)
    for (const [name, { module, key, base, own }] of this.#all) {
      const isTied = [...model.everyName()].filter(([, parameter]) => parameter === base).length > 1
      if (!isTied) {
        base.device.kernels.convert(base.tensor.handle, own.tensor.handle)
        continue
      }
      Object.assign(module, { [key]: own })
      this.#all.delete(name)
      const { config } = model as { config?: { raw: object } }
      if (config) Object.assign(model, { config: { ...config, tieWordEmbeddings: false, raw: { ...config.raw, tie_word_embeddings: false } } })
    }
  }

  dispose(): void {
    this.activate(false)
    for (const { own } of this.#all.values()) own.dispose()
  }
}
