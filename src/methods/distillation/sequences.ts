import { appendFile, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { during } from '../../activity.ts'
import { ConfigError, DataError } from '../../errors.ts'
import { expandFiles, fileStamp, fingerprintOf, openReader, readRow, type ChatMessage, type DataFormat, type DataRow } from '../../data/index.ts'
import { lockDirectory, replaceFile } from '../../files/index.ts'
import { isMissing, readError, writeError } from '../../files/filesystem.ts'
import { generate, type Prompt } from '../../generate/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'
import { teacherFingerprint } from './fingerprint.ts'
import type { TeachArguments } from './options.ts'
import type { TeachResult, TeachRunOptions } from './teach.ts'

/** Prompts that are answered together before anything is written. */
const batchRows = 64

interface Question { prompt: Prompt; tools?: unknown[]; chatTemplateKwargs?: Record<string, unknown> }

/** What a row asks: everything before the last answer. */
function questionOf(row: DataRow): Question {
  if (row.kind === 'text') throw new DataError('a row of text has no prompt to answer; give rows of prompts, prompts with completions, or messages')
  const extras = { ...(row.tools ? { tools: row.tools } : {}), ...(row.chatTemplateKwargs ? { chatTemplateKwargs: row.chatTemplateKwargs } : {}) }
  if (row.kind === 'messages') {
    const last = row.messages.findLastIndex(({ role }) => role === 'assistant')
    return { prompt: last < 0 ? row.messages : row.messages.slice(0, last), ...extras }
  }
  if (row.prompt === undefined) throw new DataError('a row of preferences has no column "prompt"; give rows with prompts')
  return { prompt: row.prompt, ...extras }
}

/** The line of training data that a completion makes. */
function lineOf({ prompt, tools, chatTemplateKwargs }: Question, completion: string): string {
  const row = typeof prompt === 'string' ? { prompt, completion } : { messages: [...prompt as readonly ChatMessage[], { role: 'assistant', content: completion }] }
  return `${JSON.stringify({ ...row, ...(tools ? { tools } : {}), ...(chatTemplateKwargs ? { chat_template_kwargs: chatTemplateKwargs } : {}) })}\n`
}

/** Every question of the data, in order. */
async function* questions(files: readonly string[], { format, columns, onBadRow }: TeachArguments): AsyncGenerator<Question> {
  for (const file of files) {
    for await (const source of openReader(file).rows({ skip: 0, onBadRow })) {
      yield questionOf(readRow(source, { ...(format === undefined ? {} : { format: format as DataFormat }), ...(columns ? { columns } : {}) }))
    }
  }
}

/** Questions after one another that the chat template sees with the same tools and variables; these are answered together. */
function groupsOf(batch: readonly Question[]): Question[][] {
  const key = ({ tools, chatTemplateKwargs }: Question): string => JSON.stringify([tools, chatTemplateKwargs])
  const groups: Question[][] = []
  for (const question of batch) {
    const last = groups.at(-1)
    if (last && key(last[0]!) === key(question)) last.push(question)
    else groups.push([question])
  }
  return groups
}

/** How far an earlier call came: the lines that are whole, 0 where there are none. */
async function written(path: string, fingerprint: string, perRow: number): Promise<{ rows: number, text: string }> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (isMissing(error)) return ''
    throw readError(error, path)
  })
  const lines = text.split('\n').slice(0, -1)
  if (lines.length === 0) return { rows: 0, text: '' }
  if (lines[0] !== fingerprint) throw new ConfigError(`output: ${path} was begun with another teacher, other data or other options; delete it, or name another file`)
  const rows = Math.floor((lines.length - 1) / perRow)
  return { rows, text: lines.slice(1, 1 + rows * perRow).map((line) => `${line}\n`).join('') }
}

/**
 * Lets a teacher answer the prompts of data and writes rows to fine-tune on, JSON lines (sequence-level distillation, arXiv 1606.07947). What is
 * written so far stands in `<output>.partial` until all is done, and a later call goes on from there.
 */
export async function writeSequences(teacher: CausalLanguageModel, tokenizer: Tokenizer, args: TeachArguments, { signal, onProgress }: TeachRunOptions): Promise<TeachResult> {
  const { output, numReturnSequences, maxNewTokens, temperature, topP, seed, bf16, format, columns } = args
  const patterns = [args.files ?? [], ...args.datasets?.map(({ files }) => files) ?? []].flat()
  if (patterns.length === 0) throw new ConfigError('files: name the data whose prompts the teacher answers, such as files: data/*.jsonl')
  const files = await expandFiles(patterns)
  const fingerprint = fingerprintOf({
    teacher: await teacherFingerprint(args.teacher), data: await Promise.all(files.map(fileStamp)), tokenizer: tokenizer.toJSON(),
    options: { numReturnSequences, maxNewTokens, temperature, topP, seed, bf16, format, columns },
  })
  const partial = `${output}.partial`
  const lock = await lockDirectory(dirname(output))
  try {
    const before = await written(partial, fingerprint, numReturnSequences)
    await writeFile(partial, `${fingerprint}\n${before.text}`).catch((error: unknown) => { throw writeError(error, partial) })
    let [rows, tokens] = [0, 0]
    let batch: Question[] = []
    const flush = async (): Promise<void> => {
      signal?.throwIfAborted()
      const lines: string[] = []
      for (const alike of groupsOf(batch)) {
        const { tools, chatTemplateKwargs } = alike[0]!
        const answers = await generate(teacher, tokenizer, alike.map(({ prompt }) => prompt), {
          numReturnSequences, maxNewTokens, temperature, topP, topK: 0, bf16, doSample: true, seed,
          ...(tools ? { tools } : {}), ...(chatTemplateKwargs ? { chatTemplateKwargs } : {}),
        })
        answers.forEach(({ text, tokenIds }, i) => {
          tokens += tokenIds.length
          lines.push(lineOf(alike[Math.floor(i / numReturnSequences)]!, text))
        })
      }
      await appendFile(partial, lines.join('')).catch((error: unknown) => { throw writeError(error, partial) })
      batch = []
      onProgress?.({ rows, totalRows: rows, tokens })
    }
    const kept = (): string => `${partial} keeps what was answered, and the same command goes on from there`
    await during({ what: 'letting the teacher answer', kept }, async () => {
      for await (const question of questions(files, args)) {
        rows++
        if (rows <= before.rows) continue
        batch.push(question)
        if (batch.length === batchRows) await flush()
      }
      if (batch.length > 0) await flush()
    })
    if (rows === 0) throw new DataError(`${patterns.join(', ')}: there is no row to answer`)
    await replaceFile(output, (await written(partial, fingerprint, numReturnSequences)).text)
    await rm(partial)
    return { rows, reused: before.rows }
  } finally {
    await lock.release()
  }
}
