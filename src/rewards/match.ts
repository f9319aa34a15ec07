import { ConfigError } from '../errors.ts'
import { rewardEach, type AnyRow, type RewardFunction, type RewardSample } from './types.ts'

/** What `exactMatch` and `numericMatch` take. */
export interface MatchOptions<Row = AnyRow> {
  /** The column with the right answer, or a function that gives it; null where it cannot be judged. Default 'answer'. */
  answer?: (keyof Row & string) | ((row: Row) => string | number | null)
  /** The part of the completion that is compared: the first group of a pattern (the last match counts), or a function. Default: all of it. */
  extract?: RegExp | ((completion: string) => string | null)
  /** Default 1. */
  right?: number
  /** Default 0. */
  wrong?: number
}

function answerOf<Row>(name: string, { row }: RewardSample<Row>, answer: NonNullable<MatchOptions<Row>['answer']>): string | null {
  if (typeof answer === 'function') {
    const value = answer(row)
    return value === null ? null : String(value)
  }
  const value = (row as AnyRow)[answer]
  if (value === undefined || value === null) return null
  if (typeof value !== 'string' && typeof value !== 'number') throw new ConfigError(`${name}: the column ${JSON.stringify(answer)} holds a ${typeof value}, expected a text or a number; give answer as a function of the row`)
  return String(value)
}

function extracted(completion: string, extract: MatchOptions['extract']): string | null {
  if (!extract) return completion
  if (typeof extract === 'function') return extract(completion)
  const pattern = new RegExp(extract.source, extract.flags.includes('g') ? extract.flags : `${extract.flags}g`)
  const last = [...completion.matchAll(pattern)].at(-1)
  return last ? last[1] ?? last[0] : null
}

function match<Row>(name: string, options: MatchOptions<Row>, isRight: (found: string, answer: string) => boolean | null): RewardFunction<Row> {
  const { answer = 'answer' as keyof Row & string, extract, right = 1, wrong = 0 } = options
  return rewardEach<Row>(name, (sample) => {
    const wanted = answerOf(name, sample, answer)
    if (wanted === null) return null
    const found = extracted(sample.completion, extract)
    const verdict = found === null ? false : isRight(found, wanted)
    return verdict === null ? null : verdict ? right : wrong
  })
}

/** 1 where the completion is the row's answer, white space at the ends aside. null for a row without one. */
export const exactMatch = <Row = AnyRow>(options: MatchOptions<Row> = {}): RewardFunction<Row> => match('exactMatch', options, (found, answer) => found.trim() === answer.trim())

const numberPattern = /[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:\s*\/\s*\d+(?:\.\d+)?)?(?:[ \u00a0\u202f]?%)?/g

/** The last number of a text: 1,234.5, -3/4, 50 %, 1e3. undefined where there is none. */
export function lastNumber(text: string): number | undefined {
  const last = text.match(numberPattern)?.at(-1)
  if (last === undefined) return undefined
  const [top, bottom] = last.replace(/,|%|\s/g, '').split('/').map(Number) as [number, number | undefined]
  return (bottom === undefined ? top : top / bottom) / (last.endsWith('%') ? 100 : 1)
}

/** 1 where the last number of the completion equals the last of the row's answer, within `tolerance` (relative, above 1) 1e-6. null for a row without a number. */
export function numericMatch<Row = AnyRow>({ tolerance = 1e-6, ...options }: MatchOptions<Row> & { tolerance?: number } = {}): RewardFunction<Row> {
  return match('numericMatch', options, (found, answer) => {
    const [a, b] = [lastNumber(found), lastNumber(answer)]
    if (b === undefined) return null
    return a !== undefined && Math.abs(a - b) <= tolerance * Math.max(1, Math.abs(b))
  })
}
