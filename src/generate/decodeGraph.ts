import type { FlatBatch } from '../models/batch.ts'
import type { CacheSequence, CausalLanguageModel, KeyValueCache, ModelConfig } from '../models/index.ts'
import { tableLength } from '../models/ropeTables.ts'
import { Spans } from '../ops/index.ts'
import { autocast, Graph, noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import { contextLength } from './context.ts'
import { drawTokens, type SamplingRow } from './sampler.ts'

/** One new token of a sequence, and how the next one is drawn. */
export interface DecodeRow { readonly sequence: CacheSequence, readonly tokenId: number, readonly row: SamplingRow }

/** What steps drew, one row a step: [steps, sequences]. */
export interface DrawnSteps {
  /** int32. */
  readonly token: Tensor
  /** float32. */
  readonly logprob: Tensor
}

/** The most steps that run between two readings of what they drew. */
export const mostSteps = 16

/**
 * The decode step of a fixed number of sequences as a graph: a small model's dozens of calls cost the processor one. Several steps run one after another
 * on the device, each on the token that the one before drew. What else differs between them lies in a table with a row a step, which the host writes; a
 * counter on the device says which row is next.
 */
export class DecodeGraph {
  readonly #rows: number
  /** Numbers of a row of the table: positions, slots, draws and spans of the sequences, each at a multiple of 16 bytes. */
  readonly #width: number
  readonly #stride: number
  readonly #tensors: Tensor[] = []
  readonly #ids: Tensor
  readonly #table: Tensor
  readonly #counter: Tensor
  readonly #options: Tensor
  readonly #drawn: DrawnSteps
  readonly #graph: Graph

  /** For as many sequences as `parts`; `length` bounds the positions of all steps to come. `isWarm`: such a step has run on this model before. */
  constructor(model: CausalLanguageModel, cache: KeyValueCache, parts: readonly DecodeRow[], { length, bf16, isWarm }: { length: number, bf16: boolean, isWarm: boolean }) {
    const { device } = model
    const rows = parts.length
    const own = (tensor: Tensor): Tensor => {
      this.#tensors.push(tensor)
      return tensor
    }
    const ints = (...shape: number[]): Tensor => own(Tensor.zeros(shape, { dtype: 'int32', device }))
    this.#rows = rows
    this.#stride = Math.ceil(rows / 4) * 4
    this.#width = 8 * this.#stride
    const { graph, drawn, inputs } = unscoped(() => {
      const [ids, table, counter, now] = [ints(rows), ints(mostSteps, this.#width), ints(1), ints(1, this.#width)]
      const options = own(Tensor.zeros([rows, 5], { device }))
      const following = own(Tensor.from(Int32Array.from({ length: mostSteps }, (_, i) => Math.min(i + 1, mostSteps - 1)), [mostSteps], { device }))
      const drawn = { token: ints(mostSteps, rows), logprob: own(Tensor.zeros([mostSteps, rows], { device })) }
      const view = (shape: number[], at: number): Tensor => own(now.viewAs(shape, at * this.#stride))
      const [positionIds, slots, draws] = [view([rows], 0), view([rows], 1), view([rows, 2], 2)]
      const spans = new Spans(Array.from({ length: rows }, (_, i) => ({ queryBegin: i, queryLength: 1, keyBegin: 0, keyLength: 1 })), view([rows, 4], 4))
      const batch: FlatBatch = {
        inputIds: ids, tokens: rows, lengths: Array.from({ length: rows }, () => 1), cuSeqlens: Int32Array.from({ length: rows + 1 }, (_, i) => i), added: [], virtual: undefined,
        positions: new Int32Array(rows), positionIds, length, spans, labels: undefined, numLabels: undefined, slots,
      }
      const step = (): void => {
        const { kernels } = device
        const run = () => { noGrad(() => { scope(() => {
          kernels.gather_rows(now.handle, table.handle, counter.handle)
          const { token, logprob } = drawTokens(model.decode(batch, cache), options, draws)
          kernels.scatter_rows(drawn.token.handle, token.viewAs([1, rows]).handle, counter.handle)
          kernels.scatter_rows(drawn.logprob.handle, logprob.viewAs([1, rows]).handle, counter.handle)
          kernels.convert(ids.handle, token.handle)
          const next = Tensor.empty([1], { dtype: 'int32', device })
          kernels.gather_rows(next.handle, following.handle, counter.handle)
          kernels.convert(counter.handle, next.handle)
        }) }) }
        if (bf16) autocast('bfloat16', run)
        else run()
      }
      this.#write({ ids, table, counter, options }, parts, 1)
      // Once for real, so that tables and working memory are made outside the graph. The first replay computes the same again.
      if (!isWarm) step()
      return { graph: Graph.capture(device, step).graph, drawn, inputs: { ids, table, counter, options } }
    })
    this.#graph = graph
    this.#drawn = drawn
    this.#ids = inputs.ids
    this.#table = inputs.table
    this.#counter = inputs.counter
    this.#options = inputs.options
  }

  /** Runs up to mostSteps steps and advances the cache. What they drew is overwritten by the next run: the stream keeps the order. */
  run(cache: KeyValueCache, parts: readonly DecodeRow[], steps: number): DrawnSteps {
    this.#write({ ids: this.#ids, table: this.#table, counter: this.#counter, options: this.#options }, parts, steps)
    for (let step = 0; step < steps; step++) this.#graph.replay()
    for (const { sequence } of parts) cache.advance(sequence, steps)
    const { token, logprob } = this.#drawn
    return { token: token.viewAs([steps, this.#rows]), logprob: logprob.viewAs([steps, this.#rows]) }
  }

  #write({ ids, table, counter, options }: { ids: Tensor, table: Tensor, counter: Tensor, options: Tensor }, parts: readonly DecodeRow[], steps: number): void {
    const stride = this.#stride
    const first = new Int32Array(this.#rows)
    const drawing = new Float32Array(5 * this.#rows)
    const numbers = new Int32Array(mostSteps * this.#width)
    for (let i = 0; i < parts.length; i++) {
      const { sequence: { begin, length }, tokenId, row } = parts[i]!
      first[i] = tokenId
      drawing[5 * i] = row.temperature
      drawing[5 * i + 1] = row.topK
      drawing[5 * i + 2] = row.topP
      drawing[5 * i + 3] = row.minP
      drawing[5 * i + 4] = row.repetitionPenalty
      for (let step = 0; step < steps; step++) {
        const at = step * this.#width
        numbers[at + i] = length + step
        numbers[at + stride + i] = begin + length + step
        numbers[at + 2 * stride + 2 * i] = row.seed
        numbers[at + 2 * stride + 2 * i + 1] = row.position + step
        const span = at + 4 * stride + 4 * i
        numbers[span] = i
        numbers[span + 1] = 1
        numbers[span + 2] = begin
        numbers[span + 3] = length + step + 1
      }
    }
    overwrite(ids, first)
    overwrite(options, drawing)
    overwrite(table, numbers)
    overwrite(counter, new Int32Array(1))
  }

  dispose(): void {
    this.#graph.dispose()
    for (const tensor of this.#tensors) tensor.dispose()
  }
}

function overwrite(tensor: Tensor, values: Int32Array | Float32Array): void {
  tensor.device.native.write(tensor.handle, new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
}

/** The most graphs an engine keeps: batches shrink as answers end, and each size needs its own. */
const mostGraphs = 16

/** Whether the rotary frequencies of long sequences are others; no graph is asked for there. */
const hasLongerFrequencies = (config: ModelConfig): boolean => config.kind === 'decoder' && (config.rope.type === 'longrope' || config.rope.type === 'dynamic')

/** Positions that a graph's tables can reach. */
function mostPositions(config: ModelConfig): number {
  if (config.kind !== 'decoder') return config.maxPositionEmbeddings
  if (config.rope.type === 'longrope') return config.rope.originalMaxPositionEmbeddings
  if (config.rope.type === 'dynamic') return config.maxPositionEmbeddings
  return Math.min(contextLength(config), tableLength(config.rope))
}

/** The positions that one graph, and one table of angles, is made for where `length` are wanted. */
const reachOf = (length: number): number => Math.max(256, 2 ** Math.ceil(Math.log2(length)))

/** The decode graphs of one engine, by the number of sequences and the highest position they serve. */
export class DecodeGraphs {
  readonly #graphs = new Map<string, DecodeGraph>()
  /** The positions that tables and working memory are made for. */
  #warm = 0

  /** A pass has run, of sequences up to this length, that made what a decoding step reads beside the weights: longer ones than a table serves leave none. */
  ran(config: ModelConfig, length: number): void {
    if (length <= mostPositions(config)) this.#warm = Math.max(this.#warm, reachOf(length))
  }

  /** The graph for these rows; made when there is none yet and `make` says so. */
  of(model: CausalLanguageModel, cache: KeyValueCache, parts: readonly DecodeRow[], { bf16, make }: { bf16: boolean, make: boolean }): DecodeGraph | undefined {
    const longest = parts.reduce((most, { sequence }) => Math.max(most, sequence.capacity), 0)
    const most = mostPositions(model.config)
    // Angles of positions beyond the table are made anew at each step.
    if (longest > most && !hasLongerFrequencies(model.config)) return undefined
    const length = Math.min(reachOf(longest), most)
    const key = `${parts.length} ${length}`
    let graph = this.#graphs.get(key)
    if (graph || !make) return graph
    if (this.#graphs.size >= mostGraphs) {
      const [oldest, first] = [...this.#graphs][0]!
      first.dispose()
      this.#graphs.delete(oldest)
    }
    graph = new DecodeGraph(model, cache, parts, { length, bf16, isWarm: length <= this.#warm })
    this.ran(model.config, length)
    this.#graphs.set(key, graph)
    return graph
  }

  /** Releases the graphs; new ones can be made. */
  clear(): void {
    for (const graph of this.#graphs.values()) graph.dispose()
    this.#graphs.clear()
    this.#warm = 0
  }
}
