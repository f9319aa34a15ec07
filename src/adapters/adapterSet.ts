import { ConfigError } from '../errors.ts'
import type { Module, Parameter } from '../nn/index.ts'
import { CausalLanguageModel, dequantizeModel, quantizedLayers } from '../models/index.ts'
import { givenOptions, parseOptions } from '../options.ts'
import { didYouMean } from '../suggest.ts'
import type { Adapter, QuantizedMerge } from './adapter.ts'
import { createBottleneck } from './bottleneck.ts'
import { createIa3 } from './ia3.ts'
import { createLnTuning } from './lnTuning.ts'
import { createLora } from './lora.ts'
import { adapterSchema, type AdapterInput, type AdapterOptions } from './options.ts'
import { createBitfit, createFreeze } from './partial.ts'
import { createPrefixTuning } from './prefixTuning.ts'
import { createPromptTuning } from './promptTuning.ts'
import { createPTuning } from './pTuning.ts'

/** The adapters of one model, and which of them it computes with. */
class AdapterSet {
  readonly adapters = new Map<string, Adapter>()
  active: readonly string[] = []
  enabled = true
  /** How often other values were read into an active adapter. */
  changes = 0
  /** Where the base model is found, for adapter_config.json. */
  baseModel: string | undefined
  /** The base's parameters that were trainable before the first adapter came. */
  readonly #frozen: Parameter[]

  constructor(model: Module) {
    this.#frozen = model.parameters().filter((parameter) => parameter.requiresGrad)
    for (const parameter of this.#frozen) parameter.requiresGrad = false
  }

  get(name: string): Adapter {
    return this.adapters.get(name) ?? (() => { throw new ConfigError(`the model has no adapter ${JSON.stringify(name)}${didYouMean(name, this.adapters.keys())}; it has ${[...this.adapters.keys()].join(', ')}`) })()
  }

  /** Those off first: two that train the same parameter must not overlap. */
  apply(): void {
    const isOn = (name: string): boolean => this.enabled && this.active.includes(name)
    const all = [...this.adapters]
    for (const [name, adapter] of all) if (!isOn(name)) adapter.activate(false)
    for (const [name, adapter] of all) if (isOn(name)) adapter.activate(true)
  }

  /** Only what is active is trained. */
  requireGradients(): void {
    for (const [name, adapter] of this.adapters) for (const parameter of adapter.parameters().values()) parameter.requiresGrad = this.active.includes(name)
  }

  release(): void { for (const parameter of this.#frozen) parameter.requiresGrad = true }
}

const sets = new WeakMap<Module, AdapterSet>()

const setOf = (model: Module): AdapterSet =>
  sets.get(model) ?? (() => { throw new ConfigError('the model has no adapters; add one with addAdapter() or loadAdapter()') })()

/** Checks an adapter's options and fills in defaults. */
export function parseAdapterOptions(input: AdapterInput): AdapterOptions {
  const type = (input as { type?: unknown }).type
  const schema = adapterSchema.options.find(({ shape }) => shape.type.value === type)
  if (!schema) {
    const types = adapterSchema.options.map(({ shape }) => shape.type.value)
    throw new ConfigError(`adapter.type: expected ${types.join(', ')}, got ${JSON.stringify(type)}${typeof type === 'string' ? didYouMean(type, types) : ''}`)
  }
  return parseOptions(schema, input, 'adapter')
}

async function create(model: Module, name: string, options: AdapterOptions, { seed = 42, encode, isLoaded = false }: AddAdapterOptions): Promise<Adapter> {
  const context = { seed, device: model.parameters()[0]!.device, encode, isLoaded }
  switch (options.type) {
    case 'lora': return createLora(model, name, options, context)
    case 'ia3': return createIa3(model, name, options, context)
    case 'lntuning': return createLnTuning(model, options)
    case 'prefix': return createPrefixTuning(model, options, context)
    case 'prompt': return await createPromptTuning(model, options, context)
    case 'ptuning': return createPTuning(model, options, context)
    case 'bottleneck': return createBottleneck(model, name, options, context)
    case 'bitfit': return createBitfit(model, options)
    case 'freeze': return createFreeze(model, options)
  }
}

/** What `addAdapter` takes beside the adapter's config. */
export interface AddAdapterOptions {
  /** Names it among the model's adapters. Default "default", as in PEFT. */
  name?: string
  /** Of its random start. Default 42. */
  seed?: number
  /** The tokenizer's encode, for prompt tuning that starts from a text. */
  encode?: (text: string) => readonly number[]
  /** Where the base model is found; saved with the adapter. */
  baseModel?: string | undefined
  /** @internal The values come from a file. */
  isLoaded?: boolean
}

/**
 * Adds an adapter (PEFT's get_peft_model and add_adapter) and makes it the active one. The model's own parameters are frozen from then on and stay
 * as they are; only the adapter's are trained. Throws ConfigError for a name that is taken, or options that fit nothing in the model.
 */
export async function addAdapter(model: Module, input: AdapterInput, context: AddAdapterOptions = {}): Promise<void> {
  givenOptions('addAdapter', input, "type: 'lora', r: 16")
  givenOptions('addAdapter', context, "name: 'default'")
  const { name = 'default' } = context
  const options = parseAdapterOptions(input)
  if (!/^(?!training$)[A-Za-z_][A-Za-z0-9_-]*$/.test(name)) throw new ConfigError(`name: expected letters, digits, "_" and "-", got ${JSON.stringify(name)}`)
  const set = sets.get(model) ?? new AdapterSet(model)
  if (set.adapters.has(name)) throw new ConfigError(`name: the model already has an adapter ${JSON.stringify(name)}; choose another name, or delete that one`)
  try {
    set.adapters.set(name, await create(model, name, options, context))
  } catch (error) {
    if (set.adapters.size === 0) set.release()
    throw error
  }
  sets.set(model, set)
  set.baseModel ??= context.baseModel
  setAdapter(model, name)
}

/** Makes the model compute with these adapters and no others (PEFT's set_adapter); only they are trained. */
export function setAdapter(model: Module, name: string | readonly string[]): void {
  const set = setOf(model)
  const names = typeof name === 'string' ? [name] : name
  for (const one of names) set.get(one)
  set.active = names
  set.apply()
  set.requireGradients()
}

/** Takes an adapter out and releases it. With the last one the model is what it was, its parameters trainable as before. */
export function deleteAdapter(model: Module, name: string): void {
  const set = setOf(model)
  const adapter = set.get(name)
  adapter.activate(false)
  adapter.remove()
  set.adapters.delete(name)
  set.active = set.active.filter((one) => one !== name)
  if (set.adapters.size > 0) return
  set.release()
  sets.delete(model)
}

/** Whether the model carries adapters, active or not. */
export const hasAdapters = (model: Module): boolean => sets.has(model)

/** The names of the model's adapters. */
export const adapterNames = (model: Module): string[] => [...sets.get(model)?.adapters.keys() ?? []]

/** The names of those it computes with. */
export const activeAdapters = (model: Module): readonly string[] => sets.get(model)?.active ?? []

/** @internal What a model computes with: adapters as they are put in, and how often other values were read into them. */
export interface AdapterState { readonly names: readonly string[], readonly adapters: readonly Adapter[], readonly changes: number }

/** @internal The state that the model is in now. */
export function adapterState(model: Module): AdapterState {
  const set = sets.get(model)
  const names = set?.enabled ? set.active : []
  return { names, adapters: names.map((name) => set!.get(name)), changes: set?.changes ?? 0 }
}

/** @internal Whether a model in one state computes what it does in the other. */
export const isSameState = (one: AdapterState, other: AdapterState): boolean =>
  one.changes === other.changes && one.adapters.length === other.adapters.length && one.adapters.every((adapter, i) => adapter === other.adapters[i])

/** @internal Called where other values are put into an adapter's parameters. */
export function noteChange(model: Module, name: string): void {
  const set = setOf(model)
  if (set.active.includes(name)) set.changes++
}

/** @internal Where the base model is found, as far as that is known. */
export const baseModelOf = (model: Module): string | undefined => sets.get(model)?.baseModel

/** @internal An adapter by name. */
export const adapterOf = (model: Module, name: string): Adapter => setOf(model).get(name)

/**
 * Runs `body` with all adapters off (PEFT's disable_adapter): the base model, without a second copy of it, as the reference of DPO or GRPO. `body` must
 * enqueue all its work before it returns. A model without adapters is left alone.
 */
export function withoutAdapters<T>(model: Module, body: () => T): T {
  const set = sets.get(model)
  if (!set?.enabled) return body()
  set.enabled = false
  set.apply()
  try {
    return body()
  } finally {
    set.enabled = true
    set.apply()
  }
}

/** How an adapter is put into its base's weights. */
export interface MergeOptions {
  /** What to do with weights that are quantised: round the sum to their format again, or widen them first. Needed where there are any. */
  quantized?: QuantizedMerge
}

/**
 * Puts the active adapters into the weights, in float32 and rounded once, and takes all adapters out (PEFT's merge_and_unload). The model is then an
 * ordinary one that savePretrained() writes.
 */
export function mergeAndUnload(model: Module, { quantized }: MergeOptions = {}): void {
  const set = setOf(model)
  const active = set.active.map((name) => [name, set.get(name)] as const)
  for (const [name, { merge, options }] of active) {
    if (!merge) throw new ConfigError(`${name}: an adapter of type ${options.type} is no change of weights, so it cannot be merged; save and load it beside the model`)
  }
  // Row lengths of DoRA are those of the base without the others.
  for (const [, adapter] of active) adapter.merge!(quantized)
  for (const name of [...set.adapters.keys()]) deleteAdapter(model, name)
  // Layers without an adapter are widened too, as a model is in one format.
  if (quantized === 'dequantize' && model instanceof CausalLanguageModel && model.quantizationConfig) {
    if (quantizedLayers(model).size) dequantizeModel(model)
    model.quantizationConfig = undefined
  }
}
