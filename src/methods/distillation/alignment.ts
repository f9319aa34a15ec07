import { ignoreIndex } from '../../data/index.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'

/** Neighbouring tokens of the student and of the teacher that stand for the same text: from … to - 1 of each. */
export interface TokenGroup { student: readonly [from: number, to: number]; teacher: readonly [from: number, to: number] }

/**
 * Groups the tokens of two tokenizations by where in the text they end, in bytes: a group closes where both end. What is left at the end is one group, if
 * both have some (TRL's ULDLoss).
 */
export function alignByBytes(student: ArrayLike<number>, teacher: ArrayLike<number>): TokenGroup[] {
  const groups: TokenGroup[] = []
  let [s, t, studentFrom, teacherFrom] = [0, 0, 0, 0]
  const close = (studentTo: number, teacherTo: number): void => {
    if (studentTo > studentFrom && teacherTo > teacherFrom) groups.push({ student: [studentFrom, studentTo], teacher: [teacherFrom, teacherTo] })
    ;[studentFrom, teacherFrom] = [studentTo, teacherTo]
  }
  while (s < student.length && t < teacher.length) {
    const difference = student[s]! - teacher[t]!
    if (difference <= 0) s++
    if (difference >= 0) t++
    if (difference === 0) close(s, t)
  }
  close(student.length, teacher.length)
  return groups
}

/** Neighbouring tokens of a row that are all trained, or all not. */
interface Segment { trained: boolean; from: number; to: number; text: string }

const running = (lengths: ArrayLike<number>): Int32Array => {
  let total = 0
  return Int32Array.from(lengths, (length) => total += length)
}

/** The text that each token adds to a row. */
function pieces(tokenizer: Tokenizer, ids: ArrayLike<number>): string[] {
  const stream = tokenizer.decodeStream()
  return Array.from(ids, (id, at) => stream.push(id) + (at === ids.length - 1 ? stream.end() : ''))
}

function segmentsOf(labels: ArrayLike<number>, texts: readonly string[]): Segment[] {
  const segments: Segment[] = []
  for (const [at, text] of texts.entries()) {
    const trained = labels[at] !== ignoreIndex
    const last = segments.at(-1)
    if (last?.trained !== trained) segments.push({ trained, from: at, to: at + 1, text })
    else Object.assign(last, { to: at + 1, text: last.text + text })
  }
  return segments
}

/** Where each token of a text ends, in bytes. */
const endsOf = (tokenizer: Tokenizer, ids: ArrayLike<number>, texts: () => readonly string[]): Int32Array =>
  running(tokenizer.tokenByteLengths(ids) ?? texts().map((text) => Buffer.byteLength(text)))

/** The tokens with which a text goes on. A tokenizer that puts a blank before every text (SentencePiece) gets it without its own. */
function encodeAfter(tokenizer: Tokenizer, before: readonly number[], text: string): number[] {
  const encode = (one: string): number[] => tokenizer.encode(one, { addSpecialTokens: false })
  if (!text.startsWith(' ') || tokenizer.tokenByteLengths([])) return encode(text)
  const shorter = encode(text.slice(1))
  return tokenizer.decode([...before, ...shorter]) === tokenizer.decode(before) + text ? shorter : encode(text)
}

export interface AlignedRow {
  /** The row's text in the teacher's tokens. */
  teacherIds: number[]
  /** Of trained tokens, in order. */
  groups: TokenGroup[]
}

/**
 * Writes a row in the teacher's tokens and groups the trained tokens of both. As in TRL's GOLD the teacher reads the student's text, its own tokens before
 * and after it (BOS, EOS) instead of the student's. With `skipEos` the tokens that end an answer are in no group, else they are one.
 */
export function alignRow(student: Tokenizer, teacher: Tokenizer, ids: ArrayLike<number>, labels: ArrayLike<number>, { skipEos }: { skipEos: boolean }): AlignedRow {
  const isEos = (id: number | undefined): boolean => id !== undefined && id === student.eosTokenId
  const texts = pieces(student, ids).map((text, at) => (at === 0 && ids[0] === student.bosTokenId) || (labels[at] !== ignoreIndex && isEos(ids[at])) ? '' : text)
  const segments = segmentsOf(labels, texts)
  const before = segments[0]?.trained === false ? segments.shift()!.text : ''
  const teacherIds = teacher.encode(before)
  if (teacherIds.length > 0 && teacherIds.at(-1) === teacher.eosTokenId) teacherIds.pop()
  const groups: TokenGroup[] = []
  for (const { trained, from, to, text } of segments) {
    const encoded = encodeAfter(teacher, teacherIds, text)
    const start = teacherIds.length
    for (const id of encoded) teacherIds.push(id)
    if (!trained) continue
    const ended = isEos(ids[to - 1])
    const own = Array.from({ length: to - from - (ended ? 1 : 0) }, (_, i) => ids[from + i]!)
    for (const group of alignByBytes(endsOf(student, own, () => texts.slice(from, from + own.length)), endsOf(teacher, encoded, () => pieces(teacher, teacherIds).slice(start)))) {
      groups.push({ student: [from + group.student[0], from + group.student[1]], teacher: [start + group.teacher[0], start + group.teacher[1]] })
    }
    if (!ended || teacher.eosTokenId === undefined) continue
    if (!skipEos) groups.push({ student: [to - 1, to], teacher: [teacherIds.length, teacherIds.length + 1] })
    teacherIds.push(teacher.eosTokenId)
  }
  return { teacherIds, groups }
}

/** Ids that stand for the same token in both tokenizers, in the order of the teacher's. */
export function sharedTokens(student: Tokenizer, teacher: Tokenizer): { student: number[], teacher: number[] } {
  const own = student.vocab()
  const pairs = [...teacher.vocab()].flatMap(([token, id]) => own.has(token) ? [[own.get(token)!, id] as const] : []).sort(([, a], [, b]) => a - b)
  return { student: pairs.map(([id]) => id), teacher: pairs.map(([, id]) => id) }
}
