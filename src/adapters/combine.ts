import { ConfigError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import type { Module } from '../nn/index.ts'
import { Tensor, unscoped } from '../tensor/index.ts'
import { adapterOf, addAdapter, baseModelOf } from './adapterSet.ts'
import { partOptions } from './lora.ts'
import type { LoraOptions } from './options.ts'

/** How `addWeightedAdapter` combines adapters; PEFT's add_weighted_adapter. */
export interface WeightedAdapterOptions {
  adapters: readonly string[]
  /** One for each adapter; negative ones take away. */
  weights: readonly number[]
  /** The name of the new adapter. */
  name: string
  /**
   * `cat`: the exact sum of the updates, its rank the sum of theirs. The others add the factors, of equal ranks: `linear`; `ties` (Yadav et al. 2023):
   * the largest of each, where they agree on the sign; `dare_linear`, `dare_ties` (Yu et al. 2024): random ones, scaled up; `magnitude_prune`: the
   * largest. Default linear.
   */
  combinationType?: 'linear' | 'cat' | 'ties' | 'dare_linear' | 'dare_ties' | 'magnitude_prune'
  /** The share of numbers that are kept, for all but linear and cat. */
  density?: number
  /** How ties elects a sign: by the sum of the numbers, or by their count. Default total. */
  majoritySignMethod?: 'total' | 'frequency'
  /** Of what dare drops. Default 42. */
  seed?: number
}

type Factor = { readonly values: Float32Array, readonly weight: number }

/** The numbers with the smallest magnitudes set to zero; `density` of them stay. */
function largest(values: Float32Array, density: number): Float32Array {
  const kept = Math.floor(density * values.length)
  const order = Array.from(values.keys()).sort((a, b) => Math.abs(values[b]!) - Math.abs(values[a]!))
  const result = new Float32Array(values.length)
  for (const i of order.slice(0, kept)) result[i] = values[i]!
  return result
}

/** Each number kept with probability `density` and divided by it. */
function dropped(values: Float32Array, density: number, uniform: Float32Array): Float32Array {
  return values.map((value, i) => (uniform[i]! < density ? value / density : 0))
}

/** The weighted sum of the numbers whose sign is the elected one, over how many they are. */
function disjointMean(factors: readonly Factor[], method: 'total' | 'frequency'): Float32Array {
  return factors[0]!.values.map((_, i) => {
    const vote = factors.reduce((sum, { values }) => sum + (method === 'total' ? values[i]! : Math.sign(values[i]!)), 0)
    const agreeing = factors.filter(({ values }) => Math.sign(values[i]!) === (vote >= 0 ? 1 : -1))
    return agreeing.reduce((sum, { values, weight }) => sum + weight * values[i]!, 0) / Math.max(agreeing.length, 1)
  })
}

const weightedSum = (factors: readonly Factor[]): Float32Array =>
  factors[0]!.values.map((_, i) => factors.reduce((sum, { values, weight }) => sum + weight * values[i]!, 0))

/** Uniform numbers of a seed and a place, the same on every device. */
async function uniforms(count: number, seed: number, stream: number): Promise<Float32Array> {
  const tensor = unscoped(() => Tensor.empty([count], { device: 'cpu' }))
  tensor.device.kernels.random_uniform(tensor.handle, 0, 1, seed, stream)
  const values = await tensor.data() as Float32Array
  tensor.dispose()
  return values
}

function checkedOptions(model: Module, { adapters, weights, combinationType = 'linear', density }: WeightedAdapterOptions): LoraOptions[] {
  if (adapters.length < 1 || adapters.length !== weights.length) throw new ConfigError(`weights: expected one for each of the ${adapters.length} adapters, got ${weights.length}`)
  const isPruned = combinationType !== 'linear' && combinationType !== 'cat'
  if (isPruned && !(density !== undefined && density > 0 && density <= 1)) throw new ConfigError(`density: ${combinationType} needs a share above 0 and up to 1, got ${String(density)}`)
  const all = adapters.map((name) => {
    const { options } = adapterOf(model, name)
    if (options.type !== 'lora' || options.useDora || options.bias !== 'none' || options.modulesToSave.length) throw new ConfigError(`adapters: ${name} is no plain LoRA adapter, and only those can be combined`)
    return options
  })
  const names = adapters.map((name) => [...adapterOf(model, name).parameters()].map(([key, { shape }]) => combinationType === 'cat' ? key : `${key} ${shape.join('×')}`).join())
  const other = names.findIndex((one) => one !== names[0])
  if (other > 0) throw new ConfigError(`adapters: ${adapters[0]!} and ${adapters[other]!} adapt other layers or have other ranks; combine adapters of one shape, or of other ranks with "cat"`)
  return all
}

/** Adds a LoRA adapter made of others (PEFT's add_weighted_adapter), and makes it the active one. */
export async function addWeightedAdapter(model: Module, options: WeightedAdapterOptions): Promise<void> {
  givenOptions('addWeightedAdapter', options, "adapters: ['a', 'b'], weights: [0.5, 0.5], name: 'both'")
  const { adapters, weights, name, combinationType = 'linear', density = 1, majoritySignMethod = 'total', seed = 42 } = options
  const given = checkedOptions(model, options)
  const first = given[0]!
  const sources = adapters.map((one) => adapterOf(model, one).parameters())
  const pathOf = (key: string): string => key.replace(/\.lora_(?:embedding_)?[AB](?:\.weight)?$/, '')
  const isA = (key: string): boolean => /\.lora_(?:embedding_)?A/.test(key)
  const ranks = Object.fromEntries([...sources[0]!.keys()].filter(isA).map((key) => [
    pathOf(key).replaceAll('.', '\\.'), sources.reduce((sum, parameters) => (combinationType === 'cat' ? sum : 0) + parameters.get(key)!.shape[0]!, 0),
  ]))
  const { useRslora: _, loraplusLrRatio: __, ...kept } = first
  const r = Math.max(...Object.values(ranks))
  await addAdapter(model, { ...kept, r, loraAlpha: r, rankPattern: ranks, alphaPattern: ranks, initLoraWeights: true }, { name, baseModel: baseModelOf(model) })
  let stream = 0
  for (const [key, target] of adapterOf(model, name).parameters()) {
    const factors: Factor[] = await Promise.all(sources.map(async (parameters, i) => {
      const scaled = weights[i]! * partOptions(pathOf(key), given[i]!).scale
      // The sign goes into one of the two factors, and all of the weight where they are laid side by side.
      const weight = combinationType === 'cat' ? (isA(key) ? scaled : 1) : Math.sqrt(Math.abs(scaled)) * (isA(key) && scaled < 0 ? -1 : 1)
      const values = await parameters.get(key)!.tensor.data() as Float32Array
      if (combinationType === 'linear' || combinationType === 'cat' || density >= 1) return { values, weight }
      const pruned = combinationType.startsWith('dare') ? dropped(values, density, await uniforms(values.length, seed, stream++)) : largest(values, density)
      return { values: pruned, weight }
    }))
    const joined = combinationType === 'cat' ? sideBySide(factors, sources.map((parameters) => parameters.get(key)!.shape as [number, number]), isA(key))
      : combinationType.endsWith('ties') ? disjointMean(factors, majoritySignMethod) : weightedSum(factors)
    target.replace(unscoped(() => Tensor.from(joined, [...target.shape], { device: target.device })))
  }
}

/** Factors below each other (A), or next to each other (B). */
function sideBySide(factors: readonly Factor[], shapes: readonly (readonly [number, number])[], below: boolean): Float32Array {
  const scaled = factors.map(({ values, weight }) => values.map((value) => value * weight))
  if (below) return Float32Array.from(scaled.flatMap((values) => [...values]))
  const rows = shapes[0]![0]
  return Float32Array.from(Array.from({ length: rows }, (_, row) => scaled.flatMap((values, i) => [...values.subarray(row * shapes[i]![1], (row + 1) * shapes[i]![1])])).flat())
}
