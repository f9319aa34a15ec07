// Tokenizers: training a byte-level BPE and encoding, on one thread, beside the npm package "tokenizers" where it is installed.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Tokenizer, trainBpe } from '../src/tokenizers/index.ts'
import { randomNumbers } from '../tests/cases/random.ts'
import { watchLag } from './lag.ts'
import type { Measurement } from './measurement.ts'
import { time } from './quiet.ts'
import type { TimingOptions } from './quiet.ts'

const vocabSize = 30_000

/** About `bytes` of text like natural language: words that occur as Zipf says, made of syllables, in sentences and lines. */
export function textLike(bytes: number): string[] {
  const random = randomNumbers('text')
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
  const [onsets, vowels, codas] = [['b', 'c', 'd', 'f', 'g', 'h', 'l', 'm', 'n', 'p', 'r', 's', 't', 'v', 'th', 'st', 'tr', 'ch', ''], ['a', 'e', 'i', 'o', 'u', 'ea', 'ou', 'é'], ['', '', 'n', 'r', 's', 'l', 't', 'ng']]
  const words = Array.from({ length: 60_000 }, (_, rank) => Array.from({ length: 1 + Math.floor(Math.log10(rank + 2) * (0.5 + random())) }, () => pick(onsets) + pick(vowels) + pick(codas)).join(''))
  const lines: string[] = []
  for (let size = 0; size < bytes;) {
    const line = Array.from({ length: 20 }, () => words[Math.floor(words.length ** random()) - 1]! + (random() < 0.1 ? ',' : '')).join(' ')
    const whole = `${line[0]!.toUpperCase()}${line.slice(1)}, ${Math.floor(10_000 * random())}.\n`
    size += Buffer.byteLength(whole)
    lines.push(whole)
  }
  return lines
}

export interface TokenizerOptions extends TimingOptions { readonly filter: RegExp; readonly peers: RegExp; readonly small: boolean }

/** What is used of the package "tokenizers". */
interface HuggingFace { Tokenizer: { fromString(json: string): { encode(text: string): Promise<{ getIds(): number[] }> } } }

async function huggingFace(): Promise<HuggingFace | null> {
  try {
    return await import('tokenizers')
  } catch {
    return null
  }
}

/** Training on 10 MB, and encoding them a megabyte at a time. */
export async function* measureTokenizers({ filter, peers, small, ...timing }: TokenizerOptions): AsyncGenerator<Measurement> {
  const [trains, encodes] = [filter.test('tokenizer train'), filter.test('tokenizer encode')]
  if (!trains && !encodes) return
  const lines = textLike(small ? 1e5 : 1e7)
  const text = lines.join('')
  const bytes = Buffer.byteLength(text)
  const common = { isa: 'js', threads: 1, dtype: 'text', pass: 'forward', unit: 'MB/s', share: null } as const
  const train = (): Promise<Tokenizer> => trainBpe(lines, { vocabSize: small ? 1000 : vocabSize })
  if (trains) {
    const lag = watchLag()
    const seconds = await time(async () => { await train() }, { ...timing, least: 3 })
    yield { ...common, name: `tokenizer train, BPE of ${vocabSize} on ${Math.round(bytes / 1e6)} MB`, ...seconds, value: bytes / seconds.median / 1e6, lag: lag() }
  }
  if (!encodes) return
  const tokenizer = await train()
  const pieces = Array.from({ length: Math.ceil(text.length / 1e6) }, (_, i) => text.slice(i * 1e6, (i + 1) * 1e6))
  const name = `tokenizer encode, ${Math.round(bytes / 1e6)} MB`
  const own = await time(() => {
    for (const piece of pieces) tokenizer.encode(piece)
    return Promise.resolve()
  }, { ...timing, least: 3 })
  yield { ...common, name, ...own, value: bytes / own.median / 1e6 }
  const library = peers.test('tokenizers') ? await huggingFace() : null
  if (!library) return
  const folder = mkdtempSync(join(tmpdir(), 'anneal-bench-'))
  try {
    await tokenizer.savePretrained(folder)
    const json = readFileSync(join(folder, 'tokenizer.json'), 'utf8')
    const other = library.Tokenizer.fromString(json)
    const theirs = await time(async () => { for (const piece of pieces) await other.encode(piece) }, { ...timing, least: 3 })
    yield { ...common, name, peer: 'tokenizers (npm)', ...theirs, isa: 'peer', value: bytes / theirs.median / 1e6 }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
