import { ConfigError } from '../errors.ts'
import { PretrainedModel } from '../models/index.ts'
import { AdapterLayer, AdapterPart, EmbeddingLayer, LinearLayer, Module, QuantizedEmbedding, QuantizedLinear } from '../nn/index.ts'
import { didYouMean } from '../suggest.ts'

type Names = string | readonly string[]

/** The modules of the model as a checkpoint names them; what adapters put around or beside them is left out. */
export function* sites(model: Module, prefix = ''): Generator<[string, Module]> {
  yield [prefix, model]
  const inner = model instanceof AdapterLayer ? innermost(model) : model
  for (const [key, value] of Object.entries(inner) as [string, unknown][]) {
    if (value instanceof AdapterPart) continue
    const items: [string, unknown][] = Array.isArray(value) ? value.map((item, i) => [`${key}.${i}`, item]) : [[key, value]]
    for (const [name, item] of items) if (item instanceof Module) yield* sites(item, prefix ? `${prefix}.${name}` : name)
  }
}

/** The layer that all adapters stand around. */
export function innermost(layer: LinearLayer): LinearLayer {
  let inner = layer
  while (inner instanceof AdapterLayer) inner = inner.base_layer
  return inner
}

/** A whole path by regular expression, as Python's re.fullmatch. */
const isFullMatch = (pattern: string, name: string): boolean => {
  try {
    return new RegExp(`^(?:${pattern})$`).test(name)
  } catch (error) {
    throw new ConfigError(`targetModules: ${JSON.stringify(pattern)} is not a regular expression: ${error instanceof Error ? error.message : String(error)}`)
  }
}

/** Whether PEFT takes the names to mean the path: a list by ending, a single string by regular expression. */
export const matchesTarget = (names: Names, path: string): boolean =>
  typeof names === 'string' ? isFullMatch(names, path) : names.some((name) => path === name || path.endsWith(`.${name}`))

/** The value that a pattern of rankPattern or alphaPattern gives a path; else `otherwise`. */
export function byPattern(patterns: Readonly<Record<string, number>>, path: string, otherwise: number): number {
  const found = Object.entries(patterns).find(([pattern]) => isFullMatch(`(?:.*\\.)?(?:${pattern})`, path))
  return found ? found[1] : otherwise
}

/** The number of the layer that a path lies in, counted in the list of that name; -1 outside. */
function layerOf(path: string, lists: Names | undefined): number {
  const names = lists === undefined ? undefined : typeof lists === 'string' ? [lists] : lists
  const parts = path.split('.')
  for (let i = 1; i < parts.length - 1; i++) {
    if (/^\d+$/.test(parts[i]!) && (!names || names.includes(parts[i - 1]!))) return Number(parts[i])
  }
  return -1
}

/** What PEFT adapts where no target is named, by model_type. */
const usualTargets: Readonly<Record<string, { lora: readonly string[], ia3: readonly string[], feedforward: readonly string[] }>> = {
  llama: { lora: ['q_proj', 'v_proj'], ia3: ['k_proj', 'v_proj', 'down_proj'], feedforward: ['down_proj'] },
  mistral: { lora: ['q_proj', 'v_proj'], ia3: ['k_proj', 'v_proj', 'down_proj'], feedforward: ['down_proj'] },
  qwen2: { lora: ['q_proj', 'v_proj'], ia3: ['q_proj', 'v_proj', 'down_proj'], feedforward: ['down_proj'] },
  qwen3: { lora: ['q_proj', 'v_proj'], ia3: ['q_proj', 'v_proj', 'down_proj'], feedforward: ['down_proj'] },
  gemma3_text: { lora: ['q_proj', 'v_proj'], ia3: ['q_proj', 'v_proj', 'down_proj'], feedforward: ['down_proj'] },
  bert: { lora: ['query', 'value'], ia3: ['key', 'value', 'output.dense'], feedforward: ['output.dense'] },
  roberta: { lora: ['query', 'value'], ia3: ['key', 'value', 'output.dense'], feedforward: ['output.dense'] },
  gpt2: { lora: ['c_attn'], ia3: ['c_attn', 'mlp.c_proj'], feedforward: ['mlp.c_proj'] },
}

/** The model_type of a model's config.json, where it has one. */
export const modelTypeOf = (model: Module): string | undefined => {
  const { config } = model as { config?: { raw?: Readonly<Record<string, unknown>> } }
  const type = config?.raw?.['model_type']
  return typeof type === 'string' ? type : undefined
}

export function usualTargetsOf(model: Module, kind: 'lora' | 'ia3' | 'feedforward'): readonly string[] {
  const type = modelTypeOf(model)
  const usual = type === undefined ? undefined : usualTargets[type]
  if (!usual) throw new ConfigError(`targetModules: there is no usual choice for ${type ?? 'this kind of model'}; name the layers, or "all-linear"`)
  return usual[kind]
}

export interface TargetOptions {
  targetModules?: Names | undefined
  excludeModules?: Names | undefined
  layersToTransform?: number | readonly number[] | undefined
  layersPattern?: Names | undefined
}

/** Classifiers and output heads are no part of "all-linear". */
const heads = new Set(['lm_head', 'score', 'classifier'])

/** The layers that the options name, in the model's order. Throws naming what could be meant where nothing fits. */
export function resolveTargets(model: Module, usual: 'lora' | 'ia3', { targetModules, excludeModules, layersToTransform, layersPattern }: TargetOptions): [string, LinearLayer | EmbeddingLayer][] {
  const candidates = [...sites(model)].filter((site): site is [string, LinearLayer | EmbeddingLayer] => site[1] instanceof LinearLayer || site[1] instanceof EmbeddingLayer)
  const names = targetModules ?? usualTargetsOf(model, usual)
  const output = model instanceof PretrainedModel ? model.getOutputEmbeddings() : undefined
  const isMeant = names === 'all-linear'
    ? ([path, layer]: [string, Module]): boolean => layer instanceof LinearLayer && layer !== output && !path.split('.').some((part) => heads.has(part))
    : ([path]: [string, Module]): boolean => matchesTarget(names, path)
  const layers = layersToTransform === undefined ? undefined : new Set(typeof layersToTransform === 'number' ? [layersToTransform] : layersToTransform)
  const found = candidates.filter(isMeant)
    .filter(([path]) => excludeModules === undefined || !matchesTarget(excludeModules, path))
    .filter(([path]) => !layers || layers.has(layerOf(path, layersPattern)))
  if (found.length) return found
  const known = [...new Set(candidates.map(([path]) => path.replace(/^.*\.\d+\./, '').split('.').at(-1)!))]
  const first = typeof names === 'string' ? names : names[0]!
  const narrowed = layers || excludeModules !== undefined ? ' once excludeModules and layersToTransform are applied' : ''
  throw new ConfigError(`targetModules: ${JSON.stringify(names)} matches no layer of the model${narrowed}${didYouMean(first, known)}; it has ${known.join(', ')}`)
}

/** Which parameters lie in the modules that a list such as modulesToSave names. Throws for a name that no module has. */
export function modulesOwning(model: Module, names: readonly string[]): (parameter: string) => boolean {
  const paths = [...sites(model)].map(([path]) => path)
  // PEFT writes both names of classification heads, whichever the model has.
  for (const name of names) {
    if (paths.some((path) => matchesTarget([name], path)) || heads.has(name)) continue
    const known = [...new Set(paths.map((path) => path.split('.').at(-1)!).filter((one) => one && !/^\d+$/.test(one)))]
    throw new ConfigError(`modulesToSave: the model has no module ${JSON.stringify(name)}${didYouMean(name, known)}; it has ${known.join(', ')}`)
  }
  const meant = paths.filter((path) => matchesTarget(names, path))
  for (const [path, site] of sites(model)) {
    const module = site instanceof LinearLayer ? innermost(site) : site
    if (!(module instanceof QuantizedLinear || module instanceof QuantizedEmbedding) || !meant.some((one) => path === one || path.startsWith(`${one}.`))) continue
    const isHead = module instanceof QuantizedEmbedding || path === 'lm_head'
    throw new ConfigError(`modulesToSave: ${path} is quantised, and quantised weights are not trained themselves; leave it out, or ${isHead ? 'leave head out of quantize' : 'name it in skipModules of quantize'}`)
  }
  return (parameter) => meant.some((path) => parameter.startsWith(`${path}.`))
}
