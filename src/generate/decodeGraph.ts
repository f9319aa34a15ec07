import type { FlatBatch } from '../models/batch.ts'
import type { CacheSequence, CausalLanguageModel, KeyValueCache } from '../models/index.ts'
import { Spans } from '../ops/index.ts'
import { autocast, Graph, noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import { drawTokens, type SampledTokens, type SamplingRow } from './sampler.ts'

/** One new token of a sequence, and how the next one is drawn. */
export interface DecodeRow { readonly sequence: CacheSequence, readonly tokenId: number, readonly row: SamplingRow }

/** What a step copies to the device; the graph reads it there. */
interface Inputs { readonly ids: Tensor, readonly positions: Tensor, readonly spans: Spans, readonly slots: Tensor, readonly options: Tensor, readonly draws: Tensor }

/**
 * The decode step of a fixed number of sequences as a CUDA graph: a small model's hundreds of launches cost the processor one. What differs from
 * step to step lies in tensors that are overwritten before each replay.
 */
export class DecodeGraph {
  readonly #inputs: Inputs
  readonly #drawn: SampledTokens
  readonly #graph: Graph

  /** For as many sequences as `parts`; `length` bounds the positions of all steps to come. */
  constructor(model: CausalLanguageModel, cache: KeyValueCache, parts: readonly DecodeRow[], { length, bf16 }: { length: number, bf16: boolean }) {
    const { device } = model
    const rows = parts.length
    const ints = (...shape: number[]): Tensor => Tensor.zeros(shape, { dtype: 'int32', device })
    this.#inputs = unscoped(() => ({
      ids: ints(rows), positions: ints(rows), slots: ints(rows), draws: ints(rows, 2), options: Tensor.zeros([rows, 5], { device }),
      spans: new Spans(Array.from({ length: rows }, (_, i) => ({ queryBegin: i, queryLength: 1, keyBegin: 0, keyLength: 1 })), device),
    }))
    const { ids, positions, spans, slots, options, draws } = this.#inputs
    const batch: FlatBatch = {
      inputIds: ids, tokens: rows, lengths: Array.from({ length: rows }, () => 1), cuSeqlens: Int32Array.from({ length: rows + 1 }, (_, i) => i), added: [], virtual: undefined, positions: new Int32Array(rows),
      positionIds: positions, length, spans, labels: undefined, numLabels: undefined, slots,
    }
    const step = (): SampledTokens => {
      const run = () => noGrad(() => scope(() => drawTokens(model.decode(batch, cache), options, draws)))
      return bf16 ? autocast('bfloat16', run) : run()
    }
    // Once for real, so that tables and working memory are made outside the graph. The first replay computes the same again.
    this.#write(parts)
    const { token, logprob } = unscoped(step)
    token.dispose()
    logprob.dispose()
    const { graph, result } = unscoped(() => Graph.capture(device, step))
    this.#graph = graph
    this.#drawn = result
  }

  /** Runs one step and advances the cache. */
  run(cache: KeyValueCache, parts: readonly DecodeRow[]): SampledTokens {
    this.#write(parts)
    this.#graph.replay()
    for (const { sequence } of parts) cache.advance(sequence, 1)
    // Read before the next step overwrites them: the stream keeps the order.
    return { token: this.#drawn.token.alias(), logprob: this.#drawn.logprob.alias() }
  }

  #write(parts: readonly DecodeRow[]): void {
    const { ids, positions, spans, slots, options, draws } = this.#inputs
    const ints = (of: (part: DecodeRow, i: number) => readonly number[]): Int32Array => Int32Array.from(parts.flatMap(of))
    overwrite(ids, ints(({ tokenId }) => [tokenId]))
    overwrite(positions, ints(({ sequence }) => [sequence.length]))
    overwrite(slots, ints(({ sequence }) => [sequence.begin + sequence.length]))
    overwrite(draws, ints(({ row }) => [row.seed, row.position]))
    overwrite(options, Float32Array.from(parts.flatMap(({ row }) => [row.temperature, row.topK, row.topP, row.minP, row.repetitionPenalty])))
    overwrite(spans.tensor, ints(({ sequence }, i) => [i, 1, sequence.begin, sequence.length + 1]))
  }

  dispose(): void {
    this.#graph.dispose()
    const { token, logprob } = this.#drawn
    for (const tensor of [...Object.values(this.#inputs) as (Tensor | Spans)[], token, logprob]) tensor.dispose()
  }
}

function overwrite(tensor: Tensor, values: Int32Array | Float32Array): void {
  tensor.device.native.write(tensor.handle, new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
}

/** The most graphs an engine keeps: batches shrink as answers end, and each size needs its own. */
const mostGraphs = 16

/** The decode graphs of one engine, by the number of sequences and the highest position they serve. */
export class DecodeGraphs {
  readonly #graphs = new Map<string, DecodeGraph>()

  /** The graph for these rows; made when there is none yet. */
  of(model: CausalLanguageModel, cache: KeyValueCache, parts: readonly DecodeRow[], bf16: boolean): DecodeGraph {
    const longest = Math.max(...parts.map(({ sequence }) => sequence.capacity))
    const length = Math.min(2 ** Math.ceil(Math.log2(Math.max(longest, 256))), model.config.maxPositionEmbeddings)
    const key = `${parts.length} ${length}`
    let graph = this.#graphs.get(key)
    if (graph) return graph
    if (this.#graphs.size >= mostGraphs) {
      const [oldest, first] = [...this.#graphs][0]!
      first.dispose()
      this.#graphs.delete(oldest)
    }
    graph = new DecodeGraph(model, cache, parts, { length, bf16 })
    this.#graphs.set(key, graph)
    return graph
  }

  dispose(): void {
    for (const graph of this.#graphs.values()) graph.dispose()
    this.#graphs.clear()
  }
}
