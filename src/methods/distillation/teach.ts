import { readFile } from 'node:fs/promises'
import { during } from '../../activity.ts'
import { ConfigError } from '../../errors.ts'
import { collate, type Dataset, type LoadedDataset } from '../../data/index.ts'
import { lockDirectory, makeFolder, replaceFile } from '../../files/index.ts'
import { AutoModelForCausalLM, readConfig, type CausalLanguageModel } from '../../models/index.ts'
import { givenOptions, parseOptions } from '../../options.ts'
import { embedding } from '../../ops/index.ts'
import { autocast, noGrad, scope, Tensor } from '../../tensor/index.ts'
import { Tokenizer } from '../../tokenizers/index.ts'
import { checkLengths, checkVocabulary, loadData } from '../prepare.ts'
import { teacherFingerprint } from './fingerprint.ts'
import { teachSchema, type TeachArguments, type TeachOptions } from './options.ts'
import { decodeShard, encodeShard, indexPath, readIndex, shardPath, subjectOf, writeIndex, type RecordedRow, type RecordingIndex, type Subject } from './recording.ts'
import { writeSequences } from './sequences.ts'
import { readMostProbable } from './topK.ts'
import { sharedVocabulary } from './vocabulary.ts'

/** How far a recording is. */
export interface TeachProgress { rows: number; totalRows: number; tokens: number }
/** What `teach` recorded. */
export interface TeachResult {
  /** Rows of data, of both training and evaluation. */
  rows: number
  /** Rows that an earlier run had done. */
  reused: number
  /** Mean probability that recorded distributions leave to other tokens; undefined for sequences. */
  meanTail?: number
}
/** What `teach` takes beside the options of the recording. */
export interface TeachRunOptions { signal?: AbortSignal; onProgress?: (progress: TeachProgress) => void }

/** Rows of the training data, then of the evaluation data. */
function allRows({ train, eval: held }: Pick<LoadedDataset, 'train' | 'eval'>): Dataset {
  if (!held) return train
  const at = (index: number): readonly [Dataset, number] => index < train.length ? [train, index] : [held, index - train.length]
  return {
    length: train.length + held.length,
    get: (index) => { const [dataset, own] = at(index); return dataset.get(own) },
    lengthOf: (index) => { const [dataset, own] = at(index); return dataset.lengthOf(own) },
  }
}

/** Records what a teacher says of data, or lets it write: for students that learn later, elsewhere, or many times. Goes on where an earlier call stopped. */
export async function teach(options: TeachOptions, run: TeachRunOptions = {}): Promise<TeachResult> {
  givenOptions('teach', options, "teacher: './large', files: 'data.jsonl', output: './taught'")
  givenOptions('teach', run, 'signal: controller.signal')
  const args = parseOptions(teachSchema, options, 'teach')
  const config = await readConfig(args.teacher)
  const folder = args.tokenizer ?? args.teacher
  const tokenizer = await Tokenizer.fromPretrained(folder)
  if (args.write === 'logprobs') {
    checkVocabulary(tokenizer, config, args.teacher)
    const own = args.tokenizer === undefined ? tokenizer : await Tokenizer.fromPretrained(args.teacher)
    sharedVocabulary({ tokenizer, rows: config.vocabSize, where: folder }, { tokenizer: own, rows: config.vocabSize, where: args.teacher })
    if (args.topK > config.vocabSize) throw new ConfigError(`topK: expected at most ${config.vocabSize}, the teacher's vocabulary, got ${args.topK}`)
  }
  if (args.write === 'sequences') return await withTeacher(args, (teacher) => writeSequences(teacher, tokenizer, args, run))
  const { assistantOnlyLoss, completionOnlyLoss } = args
  const data = await loadData(args, tokenizer, { assistantOnlyLoss, ...(completionOnlyLoss === undefined ? {} : { completionOnlyLoss }) })
  try {
    await checkLengths(data, config)
    return await withTeacher(args, (teacher) => record(teacher, data, args, run))
  } finally {
    data.close()
  }
}

async function withTeacher<T>({ teacher, dtype, device }: TeachArguments, body: (model: CausalLanguageModel) => Promise<T>): Promise<T> {
  const model = await AutoModelForCausalLM.fromPretrained(teacher, { dtype, device })
  try {
    return await body(model)
  } finally {
    model.dispose()
  }
}

/** The recording to go on with, or a new one; refuses one of other things. */
async function openRecording(folder: string, subject: Subject): Promise<RecordingIndex> {
  const index = await readIndex(folder)
  if (!index) return { ...subject, shards: [], complete: false, meanTail: 0 }
  const before = subjectOf(index)
  for (const [name, wanted] of Object.entries(subject) as [keyof Subject, unknown][]) {
    if (name === 'teacher' || before[name] === wanted) continue
    throw new ConfigError(`output: ${indexPath(folder)} is a recording with another ${name}: expected ${String(wanted).slice(0, 16)}, got ${String(before[name]).slice(0, 16)}; choose an empty folder, or delete this one`)
  }
  return index
}

async function record(teacher: CausalLanguageModel, data: LoadedDataset, args: TeachArguments, { signal, onProgress }: TeachRunOptions): Promise<TeachResult> {
  const rows = allRows(data)
  const wanted: Subject = {
    version: 1, teacher: args.teacher, teacherFingerprint: await teacherFingerprint(args.teacher), dataFingerprint: data.fingerprint, rows: rows.length,
    topK: args.topK, temperature: args.temperature, precision: args.precision, vocabulary: teacher.config.vocabSize,
  }
  await makeFolder(args.output)
  const lock = await lockDirectory(args.output)
  try {
    const index = await openRecording(args.output, wanted)
    const subject = subjectOf(index)
    for (const [number] of index.shards.entries()) {
      const path = shardPath(args.output, number)
      const bytes = await readFile(path).catch(() => undefined)
      // A shard that is gone is made again, and with it all that follow.
      if (!bytes) { index.shards.splice(number); index.complete = false; break }
      decodeShard(path, bytes, subject)
    }
    const reused = index.shards.reduce((sum, shard) => sum + shard.rows, 0)
    const kept = (): string => `${args.output} keeps ${index.shards.reduce((sum, shard) => sum + shard.rows, 0)} of ${rows.length} rows, and the same command goes on from there`
    if (!index.complete) await during({ what: "recording the teacher's distributions", kept }, () => recordRows(teacher, rows, subject, index, args, signal, onProgress))
    return { rows: rows.length, reused, meanTail: index.meanTail }
  } finally {
    await lock.release()
  }
}

async function recordRows(teacher: CausalLanguageModel, rows: Dataset, subject: Subject, index: RecordingIndex, args: TeachArguments, signal: AbortSignal | undefined, onProgress: TeachRunOptions['onProgress']): Promise<void> {
  let next = index.shards.reduce((sum, shard) => sum + shard.rows, 0)
  let [done, tail] = [0, 0]
  while (next < rows.length) {
    const first = next
    const shard: RecordedRow[] = []
    for (let tokens = 0; next < rows.length && tokens < args.tokensPerShard;) {
      signal?.throwIfAborted()
      const batch: number[] = []
      for (let size = 0; next < rows.length && (batch.length === 0 || size + rows.lengthOf(next) <= args.tokensPerBatch); next++) {
        batch.push(next)
        size += rows.lengthOf(next)
      }
      const recorded = await recordBatch(teacher, batch.map((row) => rows.get(row)), args)
      for (const row of recorded) {
        tokens += row.ids.length / args.topK
        done += row.ids.length / args.topK
        for (let t = 0; t < row.ids.length; t += args.topK) tail += Math.max(0, 1 - row.logprobs.subarray(t, t + args.topK).reduce((sum, x) => sum + Math.exp(x), 0))
      }
      shard.push(...recorded)
      onProgress?.({ rows: next, totalRows: rows.length, tokens: done })
    }
    await replaceFile(shardPath(args.output, index.shards.length), encodeShard(subject, first, shard))
    index.shards.push({ firstRow: first, rows: shard.length })
    index.meanTail = tail / Math.max(done, 1)
    index.complete = next >= rows.length
    await writeIndex(args.output, index)
  }
}

/** Most bytes of logits at a time. */
const logitBytes = 32 << 20

/** What the teacher finds most probable at the trained places of rows. */
async function recordBatch(teacher: CausalLanguageModel, examples: Parameters<typeof collate>[0], { topK, temperature, bf16 }: TeachArguments): Promise<RecordedRow[]> {
  const batch = collate(examples)
  const places = Array.from(batch.labels.keys()).filter((t) => t + 1 < batch.labels.length && batch.labels[t + 1] !== -100)
  const size = Math.max(1, Math.floor(logitBytes / (4 * teacher.config.vocabSize)))
  const inDtype = <T>(body: () => T): T => autocast(bf16 ? 'bfloat16' : 'float32', body)
  const hidden = inDtype(() => noGrad(() => teacher.base({ inputIds: batch.inputIds, cuSeqlens: batch.cuSeqlens }).lastHiddenState))
  const found = { ids: new Int32Array(places.length * topK), logprobs: new Float32Array(places.length * topK) }
  try {
    for (let at = 0; at < places.length; at += size) {
      const chunk = places.slice(at, at + size)
      const reads: ReturnType<typeof readMostProbable>[] = []
      inDtype(() => { noGrad(() => { scope(() => {
        const rows = embedding(hidden, Tensor.from(chunk, [chunk.length], { dtype: 'int32', device: hidden.device }))
        reads.push(readMostProbable(teacher.logits(rows), topK, temperature))
      }) }) })
      const { ids, logprobs } = await reads[0]!
      found.ids.set(ids, at * topK)
      found.logprobs.set(logprobs, at * topK)
    }
  } finally {
    hidden.dispose()
  }
  return perRow(examples, places, found, topK)
}

/** Cuts what was found for the places of a batch into its rows. */
function perRow(examples: Parameters<typeof collate>[0], places: readonly number[], { ids, logprobs }: { ids: Int32Array, logprobs: Float32Array }, topK: number): RecordedRow[] {
  let [end, at] = [0, 0]
  return examples.map(({ inputIds }) => {
    end += inputIds.length
    const from = at
    while (at < places.length && places[at]! < end) at++
    return { topK, ids: ids.slice(from * topK, at * topK), logprobs: logprobs.slice(from * topK, at * topK) }
  })
}
