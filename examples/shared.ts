// What several examples share: their sizes, and a task whose answers a program can check.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { generate } from 'anneal'
import type { CausalLanguageModel, Tokenizer } from 'anneal'

/** A size, or the reduced one with ANNEAL_EXAMPLE_SIZE=small: every example then runs in seconds, as the tests run them, and teaches nothing. */
export const size = (full: number, reduced: number): number => process.env['ANNEAL_EXAMPLE_SIZE'] === 'small' ? reduced : full

/** Numbers below n that are the same in every run: mulberry32. */
export function drawing(seed: number): (n: number) => number {
  let state = seed
  return (n) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor(((t ^ (t >>> 14)) >>> 0) / 2 ** 32 * n)
  }
}

/** Writes rows as JSON lines and returns the file's name. */
export function jsonl(file: string, rows: readonly object[]): string {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
  return file
}

export const percent = (share: number): string => `${(100 * share).toFixed(0)} %`

/** A calculation such as 7+5-9+3=? on a dial of the digits 0 to 9, as a conversation, with its parts (7, +5, -9, +3) and its answer. */
export interface Turns { prompt: { role: 'user', content: string }[], parts: string[], answer: string }

/** Different calculations of `count` different digits. */
export function dial(rows: number, { count, seed }: { count: number, seed: number }): Turns[] {
  const below = drawing(seed)
  const found = new Map<string, Turns>()
  while (found.size < rows) {
    const digits: number[] = []
    while (digits.length < count) {
      const digit = 1 + below(9)
      if (!digits.includes(digit)) digits.push(digit)
    }
    const parts = digits.map((digit, i) => `${i === 0 ? '' : '+-'[below(2)]!}${digit}`)
    const content = `${parts.join('')}=?`
    found.set(content, { prompt: [{ role: 'user', content }], parts, answer: working({ parts }).at(-1)! })
  }
  return [...found.values()]
}

/** Turns the dial part after part, past 9 to 0 and back: 7+5=2-9=3+3=6. */
export function working({ parts }: Pick<Turns, 'parts'>): string {
  let at = Number(parts[0])
  return parts[0]! + parts.slice(1).map((part) => `${part}=${(at = (at + Number(part) + 10) % 10)}`).join('')
}

/** A question of the quickstart, such as "Which of these is a fruit: cat, red, apple?", with its answer and the words that are wrong. */
export interface Question { prompt: { role: string, content: string }[], answer: string, wrong: string[] }

/** Reads questions that `anneal quickstart` wrote: instructions.jsonl, which it trains on, or held-out.jsonl. */
export function questions(file: string): Question[] {
  const rows = readFileSync(file, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as { messages: { role: string, content: string }[] })
  return rows.map(({ messages }) => {
    const [content, answer] = messages.map((message) => message.content) as [string, string]
    return { prompt: messages.slice(0, 1), answer, wrong: /: (.*)\?/.exec(content)![1]!.split(', ').filter((word) => word !== answer) }
  })
}

/** The share of questions that a model answers right, with its most likely answers. */
export async function rightAnswers(model: CausalLanguageModel, tokenizer: Tokenizer, rows: readonly Question[]): Promise<number> {
  const outputs = await generate(model, tokenizer, rows.map(({ prompt }) => prompt), { maxNewTokens: 12 })
  return outputs.filter(({ text }, i) => text.trim() === rows[i]!.answer).length / rows.length
}
