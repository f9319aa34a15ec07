import { givenOptions } from '../options.ts'
import { collate, type Batch } from './collate.ts'
import type { ExampleOptions } from './examples.ts'
import type { PackingStrategy } from './packing.ts'
import { openReader } from './readers/open.ts'
import { listOfRows, rowsReader } from './readers/rows.ts'
import { totals, wholeFrom1, type StepBatch } from './sampler.ts'
import { filesOf, packingOf, sourcesOf, tokenizeOptionsOf, type SourceOptions } from './sources.ts'
import { mixStreams, StreamingDataset, type ExampleStream, type MixedStreamState, type StreamState } from './stream.ts'
import { tokenizationOf } from './tokenization.ts'
import type { TextTokenizer, TokenizeConversation } from './types.ts'

export interface LoadStreamOptions<T extends TextTokenizer = TextTokenizer> extends Omit<SourceOptions, 'weight'>, ExampleOptions {
  /** anneal's Tokenizer, or any other with `tokenizeConversation` for rows of messages. */
  tokenizer: T
  tokenizeConversation?: TokenizeConversation<T>
  /** Several sources, drawn from by weight, or in turns without weights. */
  datasets?: SourceOptions[]
  /** Pack examples into rows of maxLength: true is 'bfd'. Default false. */
  packing?: boolean | PackingStrategy
  /** Examples packed together. Default 1000. */
  packingGroupSize?: number
  /** Rows among which the next is drawn; 0 keeps the order. Default 10000. */
  shuffleBuffer?: number
  /** Default 42. */
  seed?: number
  /** Times through the data; default without end. */
  epochs?: number
  onBadRow?: 'error' | 'skip'
  onEmptyMask?: 'drop' | 'error'
}

/** Where a stream of sources stands. */
export type StreamPosition = MixedStreamState<StreamState>

/** The streaming counterpart of `loadDataset`: nothing is cached, counted or split; rows are read and tokenized while training. */
export async function loadStream<T extends TextTokenizer>(options: LoadStreamOptions<T>): Promise<ExampleStream<StreamPosition>> {
  givenOptions('loadStream', options, "tokenizer, files: 'data.jsonl'")
  const { strategy, maxLength } = packingOf(options)
  const tokenization = tokenizationOf(options.tokenizer, options.tokenizeConversation)
  const { seed = 42, shuffleBuffer, epochs, packingGroupSize } = options
  const parts = await Promise.all(sourcesOf(options).map(async (source, i) => {
    const name = options.datasets ? `datasets[${i}]` : 'files'
    const readers = source.rows ? [rowsReader(await listOfRows(source.rows))] : (await filesOf(source, name)).map((file) => openReader(file, source))
    const stream = new StreamingDataset({
      ...tokenizeOptionsOf(source, options, strategy), maxLength, readers, tokenization, packing: strategy, seed,
      ...shuffleBuffer !== undefined && { shuffleBuffer }, ...epochs !== undefined && { epochs }, ...packingGroupSize !== undefined && { packingGroupSize },
    })
    return { stream, ...source.weight !== undefined && { weight: source.weight } }
  }))
  return mixStreams(parts, seed)
}

/**
 * Gathers a stream into the batches of optimizer steps, each with the state after it. What is left at the end of the stream becomes
 * a last, smaller step. `epoch` is 0 and `stepInEpoch` counts from the start of this iteration.
 */
export async function* streamSteps<State>(
  stream: ExampleStream<State>, options: { perDeviceTrainBatchSize?: number, gradientAccumulationSteps?: number } = {}, from?: State,
): AsyncGenerator<StepBatch & { state: State }> {
  givenOptions('streamSteps', options, 'perDeviceTrainBatchSize: 8')
  const batchSize = wholeFrom1('perDeviceTrainBatchSize', options.perDeviceTrainBatchSize ?? 8)
  const accumulation = wholeFrom1('gradientAccumulationSteps', options.gradientAccumulationSteps ?? 1)
  let microBatches: Batch[] = []
  let held: Parameters<typeof collate>[0][number][] = []
  let state = from
  let stepInEpoch = 0
  const step = (last: State): StepBatch & { state: State } => {
    const whole = { epoch: 0, stepInEpoch: stepInEpoch++, microBatches, ...totals(microBatches), state: last }
    microBatches = []
    return whole
  }
  for await (const item of stream.iterate(from)) {
    held.push(item.example)
    state = item.state
    if (held.length === batchSize) { microBatches.push(collate(held)); held = [] }
    if (microBatches.length === accumulation) yield step(item.state)
  }
  if (held.length > 0) microBatches.push(collate(held))
  if (microBatches.length > 0) yield step(state as State)
}
