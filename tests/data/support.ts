import { mkdtempSync, rmSync, writeFileSync, mkdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll } from 'vitest'
import type { Tokenization } from '../../src/data/examples.ts'
import type { ChatMessage, ConversationOptions, TextTokenizer, TokenizedConversation } from '../../src/data/types.ts'

/** A folder that is removed after the test file. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'anneal-data-'))
  afterAll(() => { rmSync(folder, { recursive: true, force: true }) })
  return folder
}

export function write(folder: string, name: string, content: string | Uint8Array): string {
  const path = join(folder, name)
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, content)
  return path
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

const specials = ['<|eos|>', '<|end|>', '<|user|>', '<|assistant|>', '<|system|>']

/** One token a UTF-16 unit; ids 0 to 4 are special. The tokenizer of tests/recorded/data/record.py. */
export class CharacterTokenizer implements TextTokenizer {
  readonly bosTokenId = null
  readonly eosTokenId: number | null = 0
  readonly padTokenId = 0
  readonly vocabSize = 65536
  encodings = 0

  encode(text: string, options: { addSpecialTokens?: boolean, allowSpecial?: boolean } = {}): number[] {
    this.encodings++
    if (!options.allowSpecial) return Array.from({ length: text.length }, (_, i) => text.charCodeAt(i))
    return text.split(/(<\|\w+\|>)/).flatMap((part) => specials.includes(part) ? [specials.indexOf(part)] : this.encode(part))
  }

  decode(ids: ArrayLike<number>): string {
    return Array.from(ids).map((id) => specials[id] ?? String.fromCharCode(id)).join('')
  }
}

/** <|role|>content<|end|>, the template of record.py; the assistant's content and its end are marked. */
export function tokenizeConversation(tokenizer: TextTokenizer, messages: ChatMessage[], options: ConversationOptions = {}): TokenizedConversation {
  const inputIds: number[] = []
  const assistantMask: number[] = []
  const add = (ids: number[], assistant: boolean): void => { for (const id of ids) { inputIds.push(id); assistantMask.push(assistant ? 1 : 0) } }
  if (options.tools) add(tokenizer.encode(JSON.stringify(options.tools)), false)
  for (const { role, content } of messages) {
    add([specials.indexOf(`<|${role}|>`)], false)
    add([...tokenizer.encode(typeof content === 'string' ? content : ''), 1], role === 'assistant')
  }
  if (options.addGenerationPrompt) add([3], false)
  return { inputIds, assistantMask }
}

export function characters(): Tokenization & { tokenizer: CharacterTokenizer } {
  const tokenizer = new CharacterTokenizer()
  return { tokenizer, tokenizeConversation: (messages, options) => tokenizeConversation(tokenizer, messages, options) }
}
