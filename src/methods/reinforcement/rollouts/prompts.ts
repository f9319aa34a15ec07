import { createHash } from 'node:crypto'
import { jsonOfRows, listOfRows, normaliseRow, openReader, expandFiles, permutation, rowsReader } from '../../../data/index.ts'
import type { Reader, Rows } from '../../../data/index.ts'
import { ConfigError, DataError } from '../../../errors.ts'
import { contextRoom } from '../../../generate/index.ts'
import { promptIdsOf } from '../../../generate/prompts.ts'
import type { CausalLanguageModel } from '../../../models/index.ts'
import type { AnyRow } from '../../../rewards/index.ts'
import type { ChatMessage, Tokenizer } from '../../../tokenizers/index.ts'

/** A prompt and the row it came from, whose other columns the reward functions see. */
export interface PromptRow<Row = AnyRow> {
  readonly prompt: string | readonly ChatMessage[]
  readonly promptIds: Int32Array
  readonly row: Row
}

/** Prompts with their rows, for training and for evaluation. */
export interface PromptData<Row = AnyRow> {
  readonly train: readonly PromptRow<Row>[]
  readonly eval: readonly PromptRow<Row>[]
  readonly fingerprint: string
  /** Rows left out as their prompts are longer than maxPromptLength. */
  readonly leftOut: number
}

export interface PromptSource<Row extends object> {
  files?: string | string[] | undefined
  rows?: Rows<Row> | undefined
  evalFiles?: string | string[] | undefined
  evalRows?: Rows<Row> | undefined
  evalSplit?: number | undefined
  columns?: Record<string, string> | undefined
  chatTemplateKwargs?: Record<string, unknown> | undefined
  seed: number
  maxPromptLength: number | null
  maxCompletionLength: number
  /** The option that gives maxCompletionLength, where it has another name. */
  lengthOption?: string
}

const readersOf = async (files: string | string[]): Promise<Reader[]> => (await expandFiles(files)).map((file) => openReader(file))

/** Reads rows with a `prompt`: a text, or the messages of a conversation. Every other column goes to the reward functions as it is. */
export async function loadPrompts<Row extends object = AnyRow>(source: PromptSource<Row>, model: CausalLanguageModel, tokenizer: Tokenizer): Promise<PromptData<Row>> {
  const { files, rows, evalFiles, evalRows, evalSplit, seed } = source
  if (!files === !rows) throw new ConfigError('files: give the prompts, either as files such as data/*.jsonl or as rows')
  if (evalSplit !== undefined && (evalFiles ?? evalRows)) throw new ConfigError('evalSplit: give either a split or evalFiles, not both')
  const hash = createHash('sha256')
  let leftOut = 0
  const read = async (readers: readonly Reader[]): Promise<PromptRow<Row>[]> => {
    const result: PromptRow<Row>[] = []
    for (const reader of readers) {
      for await (const at of reader.rows()) {
        const one = promptRow<Row>(at, source, model, tokenizer)
        if (!one) { leftOut++; continue }
        hash.update(jsonOfRows(one.row))
        result.push(one)
      }
    }
    return result
  }
  const inMemory = async (given: Rows<Row>, name: string): Promise<Reader[]> => [rowsReader(await listOfRows(given, name), name)]
  const all = await read(files ? await readersOf(files) : await inMemory(rows!, 'rows'))
  const held = await read(evalFiles ? await readersOf(evalFiles) : await inMemory(evalRows ?? [], 'evalRows'))
  if (all.length === 0) throw new DataError(`files: no prompts to train on${leftOut > 0 ? `; all ${leftOut} are longer than maxPromptLength ${source.maxPromptLength!}` : ''}`)
  const fingerprint = (): string => hash.digest('hex')
  if (evalSplit === undefined) return { train: all, eval: held, fingerprint: fingerprint(), leftOut }
  const count = evalSplit < 1 ? Math.max(1, Math.round(all.length * evalSplit)) : evalSplit
  if (count >= all.length) throw new ConfigError(`evalSplit: expected fewer than the ${all.length} prompts, got ${evalSplit}`)
  const order = permutation(all.length, seed, 'split')
  const pick = (indices: Uint32Array): PromptRow<Row>[] => Array.from(indices.toSorted(), (i) => all[i]!)
  return { train: pick(order.subarray(count)), eval: pick(order.subarray(0, count)), fingerprint: fingerprint(), leftOut }
}

function promptRow<Row extends object>(at: Parameters<typeof normaliseRow>[0], { columns, chatTemplateKwargs, maxPromptLength, maxCompletionLength, lengthOption = 'maxCompletionLength' }: PromptSource<Row>, model: CausalLanguageModel, tokenizer: Tokenizer): PromptRow<Row> | undefined {
  const data = normaliseRow(at, 'prompt', columns ? { columns } : {})
  if (data.kind !== 'prompt') throw new DataError(`${at.file}: expected a row with a prompt, got one of kind ${data.kind}`)
  const promptIds = promptIdsOf(data.prompt, model, tokenizer, { tools: data.tools, chatTemplateKwargs: { ...chatTemplateKwargs, ...data.chatTemplateKwargs } })
  const place = at.line === undefined ? `${at.file}: row ${at.record + 1}` : `${at.file}:${at.line}`
  if (promptIds.length === 0) throw new DataError(`${place}: prompt: expected at least one token, got none; remove the row`)
  if (maxPromptLength !== null && promptIds.length > maxPromptLength) return undefined
  const room = contextRoom(model) - maxCompletionLength
  if (promptIds.length > room) {
    throw new DataError(`${place}: the prompt has ${promptIds.length} tokens, but the model's context of ${contextRoom(model)} leaves ${Math.max(room, 0)} beside ${lengthOption} ${maxCompletionLength}; lower ${lengthOption}, or set maxPromptLength to leave longer prompts out`)
  }
  return { prompt: data.prompt, promptIds, row: at.row as Row }
}
