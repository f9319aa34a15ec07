import { setImmediate } from 'node:timers/promises'
import { ConfigError, DataError } from '../errors.ts'
import { ExampleMaker, type ExampleStats, type Tokenization } from './examples.ts'
import { checkFormatOptions } from './formats.ts'
import { partAt, shares } from './mixture.ts'
import { memoryDataset, packDataset } from './dataset.ts'
import type { PackingStrategy } from './packing.ts'
import { permutation, RandomSequence } from './random.ts'
import type { Reader, SourceRow } from './readers/types.ts'
import { tokenizeRow, type TokenizeOptions } from './tokenizeChunk.ts'
import type { Example } from './types.ts'

/** An example and the state from which the stream goes on after it. */
export interface Streamed<State> { example: Example, state: State }

/** Examples that are made as they are asked for. The same state gives the same examples again; states are plain JSON. */
export interface ExampleStream<State> {
  iterate(state?: State): AsyncGenerator<Streamed<State>>
}

/** Where a stream stands: rows taken from the shuffle buffer in this epoch, and packed rows given since. */
export interface StreamState { epoch: number, taken: number, packed: number }

export interface StreamOptions extends TokenizeOptions {
  readers: readonly Reader[]
  tokenization: Tokenization
  /** Rows among which the next is drawn; 0 keeps the order. Default 10000. */
  shuffleBuffer?: number
  seed?: number
  /** Times through the data; default without end. */
  epochs?: number
  packing?: PackingStrategy | false
  /** Examples packed together. Default 1000. */
  packingGroupSize?: number
}

/**
 * Reads, shuffles, tokenizes and packs without a cache. Files come in another order each epoch and rows pass through a shuffle buffer;
 * both depend on (seed, epoch) only. Going on from a state reads again the rows before it, but does not tokenize them.
 */
export class StreamingDataset implements ExampleStream<StreamState> {
  private readonly options: StreamOptions
  private readonly maker: ExampleMaker

  constructor(options: StreamOptions) {
    const { readers, packing, maxLength, shuffleBuffer = 10000, packingGroupSize = 1000 } = options
    checkFormatOptions(options)
    if (readers.length === 0) throw new ConfigError('readers: expected at least one, got none')
    if (!Number.isInteger(shuffleBuffer) || shuffleBuffer < 0) throw new ConfigError(`shuffleBuffer: expected a whole number from 0, got ${shuffleBuffer}`)
    if (!Number.isInteger(packingGroupSize) || packingGroupSize < 1) throw new ConfigError(`packingGroupSize: expected a whole number from 1, got ${packingGroupSize}`)
    if (packing && maxLength === null) throw new ConfigError('maxLength: packing needs a length, got null')
    const loses = !packing || packing === 'bfd'
    this.options = options
    this.maker = new ExampleMaker(options.tokenization, loses ? options : { ...options, maxLength: null })
  }

  /** Counts of what this object has made so far. */
  get stats(): ExampleStats { return this.maker.stats }

  async *iterate(from: StreamState = { epoch: 0, taken: 0, packed: 0 }): AsyncGenerator<Streamed<StreamState>> {
    const { epochs = Infinity, packing } = this.options
    let state = from
    for (let epoch = from.epoch; epoch < epochs; epoch++) {
      let given = 0
      for await (const item of packing ? this.packed(state, packing) : this.examples(state)) {
        given++
        yield item
      }
      const fresh = state.taken === 0 && state.packed === 0
      if (fresh && given === 0) throw new DataError(`the stream gives no examples: ${this.stats.emptyMask} of ${this.stats.rows} rows have no token to train on, ${this.stats.badRows} were malformed`)
      state = { epoch: epoch + 1, taken: 0, packed: 0 }
    }
  }

  /** The rows of one epoch in their shuffled order, from number `taken` on. */
  private async *rows(epoch: number, taken: number): AsyncGenerator<SourceRow> {
    const { readers, seed = 42, shuffleBuffer = 10000, onBadRow = 'error' } = this.options
    const order = shuffleBuffer > 0 ? permutation(readers.length, seed, 'shuffle', epoch) : Uint32Array.from(readers, (_, i) => i)
    const random = new RandomSequence(seed, 'buffer', epoch)
    const buffer: SourceRow[] = []
    let drawn = 0
    const draw = (next?: SourceRow): SourceRow => {
      const place = random.below(drawn++, buffer.length)
      const row = buffer[place]!
      const last = next ?? buffer.pop()!
      if (place < buffer.length) buffer[place] = last
      return row
    }
    for (const index of order) {
      for await (const source of readers[index]!.rows({ onBadRow, onSkipped: () => { this.maker.stats.badRows++ } })) {
        if (shuffleBuffer === 0) { if (drawn++ >= taken) yield source; continue }
        if (buffer.length < shuffleBuffer) { buffer.push(source); continue }
        const row = draw(source)
        if (drawn > taken) yield row
      }
    }
    while (buffer.length > 0) {
      const row = draw()
      if (drawn > taken) yield row
    }
  }

  private async *examples({ epoch, taken }: StreamState): AsyncGenerator<Streamed<StreamState>> {
    let at = taken
    let turn = performance.now()
    for await (const source of this.rows(epoch, taken)) {
      at++
      const example = tokenizeRow(source, this.maker, this.options)
      if (example) yield { example, state: { epoch, taken: at, packed: 0 } }
      if (performance.now() - turn > 8) { await setImmediate(); turn = performance.now() }
    }
  }

  /** A state inside a group names the group's first row and how many packed rows of it were given. */
  private async *packed(from: StreamState, strategy: PackingStrategy): AsyncGenerator<Streamed<StreamState>> {
    const { packingGroupSize = 1000, maxLength } = this.options
    const { epoch } = from
    let start = from.taken
    let given = from.packed
    let group: Example[] = []
    const pack = function* (end: number): Generator<Streamed<StreamState>> {
      const rows = packDataset(memoryDataset(group), { maxLength: maxLength ?? 1024, strategy, groupSize: Infinity })
      for (let row = given; row < rows.length; row++) {
        const last = row === rows.length - 1
        yield { example: rows.get(row), state: last ? { epoch, taken: end, packed: 0 } : { epoch, taken: start, packed: row + 1 } }
      }
      group = []
      start = end
      given = 0
    }
    let end = start
    for await (const { example, state } of this.examples({ ...from, packed: 0 })) {
      group.push(example)
      end = state.taken
      if (group.length === packingGroupSize) yield* pack(end)
    }
    if (group.length > 0) yield* pack(end)
  }
}

/** Where a mixture of streams stands: draws so far, and each stream's own state. */
export interface MixedStreamState<State> { index: number, parts: (State | null)[] }

/**
 * Draws each example from one of several streams, by weight or in turns; draw i depends on (seed, i) only. Ends when a stream it draws from ends.
 */
export function mixStreams<State>(parts: readonly { stream: ExampleStream<State>, weight?: number }[], seed = 42): ExampleStream<MixedStreamState<State>> {
  if (parts.length === 0) throw new ConfigError('streams: expected at least one, got none')
  const weights = shares(parts.map(({ weight }) => weight)) ?? parts.length
  return {
    async *iterate(from = { index: 0, parts: parts.map(() => null) }) {
      const random = new RandomSequence(seed, 'mixture')
      const states = [...from.parts]
      const iterators = parts.map(({ stream }, i) => stream.iterate(states[i] ?? undefined))
      try {
        for (let index = from.index; ; index++) {
          const part = partAt(index, weights, random)
          const next = await iterators[part]!.next()
          if (next.done) return
          states[part] = next.value.state
          yield { example: next.value.example, state: { index: index + 1, parts: [...states] } }
        }
      } finally {
        await Promise.all(iterators.map((iterator) => iterator.return(undefined)))
      }
    },
  }
}
