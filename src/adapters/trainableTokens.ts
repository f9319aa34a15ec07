import { ConfigError } from '../errors.ts'
import { PretrainedModel } from '../models/index.ts'
import { Embedding, EmbeddingLayer, Linear, LinearLayer, QuantizedEmbedding, QuantizedLinear, type Module, type Parameter } from '../nn/index.ts'
import type { Device } from '../tensor/index.ts'
import { didYouMean } from '../suggest.ts'
import { displace, place } from './placement.ts'
import { innermost, matchesTarget, sites } from './targets.ts'
import { HeadPart, refuseOverlap, TokensEmbedding, TokensHead, TokensPart } from './tokensLayer.ts'

/** Ids of the input embedding's tokens, or of the tables of other layers by their names: PEFT's trainable_token_indices. */
export type TokenIndices = readonly number[] | Readonly<Record<string, readonly number[]>>

/** The trained rows of an adapter. */
export interface TrainableTokens {
  /** By their names in PEFT's file. */
  readonly parameters: Map<string, Parameter>
  activate(on: boolean): void
  merge(): void
  remove(): void
}

function parentOf(model: Module, path: string): Module {
  const at = path.lastIndexOf('.')
  return at < 0 ? model : [...sites(model)].find(([name]) => name === path.slice(0, at))![1]
}

/** The tables that the indices mean, by path. */
function tablesOf(model: Module, indices: TokenIndices): [string, EmbeddingLayer | LinearLayer, readonly number[]][] {
  const all = [...sites(model)].filter((site): site is [string, EmbeddingLayer | LinearLayer] => site[1] instanceof EmbeddingLayer || site[1] instanceof LinearLayer)
  if (Array.isArray(indices)) {
    const table = model instanceof PretrainedModel ? model.getInputEmbeddings() : undefined
    const site = all.find(([, module]) => module === table)
    if (!site) throw new ConfigError('trainableTokenIndices: the model says of no embedding that it is the input\'s; give the ids by the name of the layer')
    return [[...site, indices as readonly number[]]]
  }
  return Object.entries(indices as Readonly<Record<string, readonly number[]>>).map(([name, ids]) => {
    const site = all.find(([path]) => matchesTarget([name], path))
    if (!site) throw new ConfigError(`trainableTokenIndices: the model has no embedding or output layer ${JSON.stringify(name)}${didYouMean(name, all.map(([path]) => path.split('.').at(-1)!))}`)
    return [...site, ids]
  })
}

function checked(path: string, ids: readonly number[], vocabulary: number): readonly number[] {
  const wrong = ids.find((id) => id >= vocabulary)
  if (wrong !== undefined) throw new ConfigError(`trainableTokenIndices: expected ids below ${vocabulary}, the rows of ${path}, got ${wrong}; call resizeTokenEmbeddings() before the adapter is added`)
  if (ids.length === 0 || new Set(ids).size < ids.length) throw new ConfigError(`trainableTokenIndices: expected ids of ${path}, each once, got ${ids.length === 0 ? 'none' : JSON.stringify(ids.find((id, i) => ids.indexOf(id) < i))}${ids.length === 0 ? '' : ' twice'}`)
  return ids
}

/** A table some rows of which are to be trained. */
interface TokenTable { readonly path: string, readonly module: EmbeddingLayer | LinearLayer, readonly ids: readonly number[], readonly weight: Parameter }

/** The output layer's path where it is tied to a table. */
function tiedHead(model: Module, table: Parameter): string | undefined {
  const head = model instanceof PretrainedModel ? model.getOutputEmbeddings() : undefined
  const base = head && innermost(head)
  return base instanceof Linear && base.weight === table ? [...sites(model)].find(([, one]) => one === head)![0] : undefined
}

/** Finds the tables and checks that their rows can be trained beside layers that the adapter changes otherwise. Nothing is changed yet. */
export function tokenTables(model: Module, indices: TokenIndices, adapted: ReadonlySet<string>): TokenTable[] {
  return tablesOf(model, indices).map(([path, module, ids]) => {
    const base = module instanceof EmbeddingLayer ? module : innermost(module)
    if (base instanceof QuantizedEmbedding || base instanceof QuantizedLinear) throw new ConfigError(`trainableTokenIndices: ${path} is quantised, so that none of its rows can be trained; leave head out of quantize`)
    if (!(base instanceof Embedding || base instanceof Linear)) throw new ConfigError(`trainableTokenIndices: ${path} is neither an embedding nor a plain output layer`)
    const { weight } = base
    const taken = [path, tiedHead(model, weight)].find((one) => one !== undefined && adapted.has(one))
    if (taken !== undefined || (module instanceof Embedding && 'parts' in module && !(module instanceof TokensEmbedding))) {
      throw new ConfigError(`trainableTokenIndices: ${taken ?? path} takes a LoRA update already; leave it out of targetModules, or train it whole with modulesToSave`)
    }
    return { path, module, ids: checked(path, ids, weight.shape[0]!), weight }
  })
}

/** Puts trained rows in the place of some of the model's. Those of an embedding that the output layer is tied to stand in that, too, as in PEFT. */
export function createTrainableTokens(model: Module, name: string, tables: readonly TokenTable[], device: Device): TrainableTokens {
  const parameters = new Map<string, Parameter>()
  const undo: (() => void)[] = []
  const parts: { path: string, part: TokensPart | HeadPart, table: Parameter, merges: boolean, siblings: () => Iterable<TokensPart> }[] = []
  const onHead = (path: string, table: Parameter, rows: TokensPart, isTied: boolean): void => {
    const head = place(model, path, TokensHead, name, new HeadPart(rows, isTied))
    const part = head.adapters.get(name)!
    undo.push(() => { displace(model, path, head, name) })
    parts.push({ path, part, table, merges: !isTied, siblings: () => head.active.map((one) => one.rows) })
  }
  for (const { path, module, ids, weight: table } of tables) {
    const head = tiedHead(model, table)
    const rows = new TokensPart(ids, table.shape as [number, number], device)
    rows.startFrom(table)
    parameters.set(`${path}.token_adapter.trainable_tokens_delta`, rows.trainable_tokens_delta)
    if (!(module instanceof Embedding)) {
      onHead(path, table, rows, false)
      continue
    }
    const layer = module instanceof TokensEmbedding ? module : new TokensEmbedding(module)
    Object.assign(parentOf(model, path), { [path.split('.').at(-1)!]: layer })
    layer.set(name, rows)
    undo.push(() => {
      layer.delete(name)
      if (layer.parts.size === 0) Object.assign(parentOf(model, path), { [path.split('.').at(-1)!]: layer.base_layer })
    })
    parts.push({ path, part: rows, table, merges: true, siblings: () => layer.parts.values() })
    if (head !== undefined) onHead(head, table, rows, true)
  }
  return {
    parameters,
    activate(on) {
      for (const { part } of parts) part.active = on
      if (on) for (const { path, siblings } of parts) refuseOverlap(path, siblings())
    },
    merge() {
      for (const { part, table, merges } of parts) if (merges) (part instanceof HeadPart ? part.rows : part).mergeInto(table)
    },
    remove() { for (const one of [...undo].reverse()) one() },
  }
}
