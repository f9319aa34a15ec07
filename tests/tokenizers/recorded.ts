import { readFileSync } from 'node:fs'

const folder = new URL('../recorded/tokenizers/', import.meta.url)

export const recordedNames = ['gpt2', 'qwen2', 'llama3', 'bert', 'unigram', 'llama2'] as const

export interface RecordedEncodings {
  ids: number[][]
  plain: number[][]
  decoded: string[]
  pair: number[]
  pairTypes: number[]
}

export const readText = (name: string): string => readFileSync(new URL(name, folder), 'utf8')
export const tokenizerJSON = (name: string): string => readText(`${name}.tokenizer.json`)
export const corpus: readonly string[] = readText('corpus.txt').split('\n\n')
export const texts = JSON.parse(readText('texts.json')) as string[]
export const recorded = JSON.parse(readText('recorded.json')) as
  Record<(typeof recordedNames)[number], RecordedEncodings> & { limitedMerges: [string, string][] }

/** Texts of many kinds: every byte, odd white space, scripts, emoji, and random code points known to every Unicode version since 8. */
export function variedTexts(): string[] {
  const varied = [...texts, ...corpus.slice(0, 60), String.fromCharCode(...Array.from({ length: 256 }, (_, i) => i)), 'x'.repeat(700), ' '.repeat(300), '\ud800 lone']
  let seed = 12345
  const random = () => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) / 0x7fffffff
  const blocks = [[32, 95], [9, 5], [0xa0, 0x160], [0x391, 0x40], [0x400, 0x100], [0x5d0, 0x1b], [0x905, 0x30], [0xe01, 0x30], [0x3041, 0x50], [0x4e00, 0x5000], [0xac00, 0x2b00], [0x1f600, 0x40], [0x2000, 0x28], [0x300, 0x30]] as const
  for (let i = 0; i < 300; i++) {
    let text = ''
    while (text.length < 40) {
      const [start, size] = blocks[random() < 0.5 ? 0 : Math.floor(random() * blocks.length)]!
      text += String.fromCodePoint(start + Math.floor(random() * size))
    }
    varied.push(text)
  }
  return varied
}
