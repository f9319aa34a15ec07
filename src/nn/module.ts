import { AnnealError, ConfigError } from '../errors.ts'
import { didYouMean } from '../suggest.ts'
import type { Device, DType, Tensor } from '../tensor/index.ts'
import { Parameter } from './parameter.ts'

/** What initialise() needs to know. */
export interface InitialiseOptions {
  seed: number
  dtype: DType
  device: Device
  /** The path of this module where it is part of another: initial values depend on names. Default none. */
  prefix?: string
}

/** A pattern of parameter names: `*` stands for anything; a plain name also means everything below it. */
export type NamePattern = string | RegExp

/** Whether a dotted name is one the pattern means. */
export function matchesName(pattern: NamePattern, name: string): boolean {
  if (typeof pattern !== 'string') return new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, '')).test(name)
  const body = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&')).join('.*')
  return new RegExp(`^${body}(?:\\..*)?$`, 's').test(name)
}

/**
 * A part of a model. Its parameters and sub-modules are its properties, named as in the checkpoint: `self_attn.q_proj.weight` is
 * `module.self_attn.q_proj.weight`. Properties that hold neither are left alone.
 */
export abstract class Module {
  /** Whether dropout is active. Set with train() and eval(). */
  training = false

  /** The direct parameters and sub-modules in the order they were set; items of a list are `name.0`, `name.1`, …. */
  private *children(): Generator<[string, Parameter | Module]> {
    for (const [key, value] of Object.entries(this) as [string, unknown][]) {
      if (value instanceof Parameter || value instanceof Module) yield [key, value]
      else if (Array.isArray(value)) {
        for (const [i, item] of value.entries()) if (item instanceof Module) yield [`${key}.${i}`, item]
      }
    }
  }

  /** This module and all below it, by dotted name; its own name is the prefix, '' by default. */
  *namedModules(prefix = ''): Generator<[string, Module]> {
    yield [prefix, this]
    for (const [key, child] of this.children()) {
      if (child instanceof Module) yield* child.namedModules(prefix ? `${prefix}.${key}` : key)
    }
  }

  /** Every parameter once, by the checkpoint's name; a tied one has the name met first. */
  *namedParameters(prefix = ''): Generator<[string, Parameter]> {
    const seen = new Set<Parameter>()
    for (const [name, parameter] of this.everyName(prefix)) {
      if (seen.has(parameter)) continue
      seen.add(parameter)
      yield [name, parameter]
    }
  }

  /** Every name a parameter has; tied ones have several. */
  *everyName(prefix = ''): Generator<[string, Parameter]> {
    for (const [key, child] of this.children()) {
      const name = prefix ? `${prefix}.${key}` : key
      if (child instanceof Parameter) yield [name, child]
      else yield* child.everyName(name)
    }
  }

  parameters(): Parameter[] { return [...this.namedParameters()].map(([, parameter]) => parameter) }

  /** The module of that dotted name; throws with a suggestion when there is none. */
  getModule(name: string): Module {
    const names: string[] = []
    for (const [found, module] of this.namedModules()) {
      if (found === name) return module
      names.push(found)
    }
    throw new ConfigError(`no module ${JSON.stringify(name)} in the model${didYouMean(name, names)}`)
  }

  /** The parameter of that dotted name; throws with a suggestion when there is none. */
  getParameter(name: string): Parameter {
    const all = new Map(this.everyName())
    return all.get(name) ?? (() => { throw new ConfigError(`no parameter ${JSON.stringify(name)} in the model${didYouMean(name, all.keys())}`) })()
  }

  /** Puts another module in the place of the one of that name, as adapters do with linear layers. Returns the old one. */
  replaceModule(name: string, module: Module): Module {
    const old = this.getModule(name)
    const path = name.split('.')
    const key = path.pop()!
    const inList = /^\d+$/.test(key)
    const parent = this.getModule((inList ? path.slice(0, -1) : path).join('.')) as unknown as Record<string, unknown>
    if (inList) (parent[path.at(-1)!] as Module[])[Number(key)] = module
    else parent[key] = module
    module.train(old.training)
    return old
  }

  /** Switches dropout on for this module and all below it. */
  train(mode = true): this {
    for (const [, module] of this.namedModules()) module.training = mode
    return this
  }

  /** Switches dropout off. */
  eval(): this { return this.train(false) }

  /**
   * Sets which parameters get gradients: all, or those whose names match a pattern such as `model.layers.0`, `*.mlp.*` or a RegExp.
   * Returns how many there were; throws ConfigError when a pattern matches none.
   */
  requiresGrad_(value = true, pattern?: NamePattern): number {
    const names = new Map(this.everyName())
    const chosen = new Set([...names].filter(([name]) => pattern === undefined || matchesName(pattern, name)).map(([, parameter]) => parameter))
    if (pattern !== undefined && !chosen.size) {
      throw new ConfigError(`no parameter matches ${String(pattern)}${typeof pattern === 'string' ? didYouMean(pattern, names.keys()) : ''}; names look like "${[...names.keys()].slice(0, 2).join('", "')}"`)
    }
    for (const parameter of chosen) parameter.requiresGrad = value
    return chosen.size
  }

  /** Gives every parameter its initial values; the same seed gives the same model. Where memory runs out, none keeps any. */
  initialise({ seed, dtype, device, prefix = '' }: InitialiseOptions): void {
    try {
      for (const [name, parameter] of this.namedParameters(prefix)) parameter.initialise(name, seed, dtype, device)
    } catch (error) {
      this.dispose()
      throw error
    }
  }

  /** The values of all parameters by name, tied ones under each name. The tensors are the parameters' own, not copies. */
  stateDict(): Map<string, Tensor> { return new Map([...this.everyName()].map(([name, parameter]) => [name, parameter.tensor])) }

  /** Takes over the values of `state`. Every parameter needs a tensor of its shape; throws naming what is missing or left over. */
  loadStateDict(state: ReadonlyMap<string, Tensor>): void {
    const names = new Map(this.everyName())
    for (const name of state.keys()) if (!names.has(name)) throw new ConfigError(`no parameter ${JSON.stringify(name)} in the model${didYouMean(name, names.keys())}`)
    for (const [name, parameter] of this.namedParameters()) {
      const source = state.get(name)
      if (!source) throw new ConfigError(`the state has no tensor ${JSON.stringify(name)}${didYouMean(name, state.keys())}`)
      if (source.shape.join() !== parameter.shape.join()) throw new ConfigError(`${name}: expected shape [${parameter.shape.join(', ')}], got [${source.shape.join(', ')}]`)
      if (!parameter.isMaterialised) throw new AnnealError('ERR_PARAMETER', `${name}: the model has no memory yet; initialise it first`)
      parameter.tensor.device.kernels.convert(parameter.tensor.handle, source.handle)
    }
  }

  /** Changes the dtype of all parameters, one at a time. */
  to(dtype: DType): this {
    for (const parameter of this.parameters()) parameter.to(dtype)
    return this
  }

  zeroGrad(): void { for (const parameter of this.parameters()) parameter.zeroGrad() }

  /** Numbers of this module itself, not of those below it, that are no parameters: a quantised weight. */
  get frozenSize(): number { return 0 }

  /** The number of elements, those of quantised weights too, tied parameters counted once. */
  numParameters({ onlyTrainable = false } = {}): number {
    const frozen = onlyTrainable ? 0 : [...this.namedModules()].reduce((sum, [, module]) => sum + module.frozenSize, 0)
    return frozen + this.parameters().reduce((sum, parameter) => sum + (onlyTrainable && !parameter.requiresGrad ? 0 : parameter.size), 0)
  }

  /** Releases everything that this module and all below it hold. */
  dispose(): void { for (const [, child] of this.children()) child.dispose() }

  [Symbol.dispose](): void { this.dispose() }
}
