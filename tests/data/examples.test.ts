// Proves that tokens, labels, truncation and dropped rows are those of TRL's SFTTrainer, recorded in tests/recorded/data/sft.json.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { DataError } from '../../src/errors.ts'
import { ExampleMaker, type ExampleOptions } from '../../src/data/examples.ts'
import { readRow } from '../../src/data/formats.ts'
import { characters } from './support.ts'

interface Recorded {
  cases: {
    name: string, rows: Record<string, unknown>[], inputIds: number[][], labels: number[][]
    options: { max_length: number | null, truncation_mode: 'keep_start' | 'keep_end', completion_only_loss: boolean | null, assistant_only_loss: boolean }
  }[]
}
const recorded = JSON.parse(readFileSync(new URL('../recorded/data/sft.json', import.meta.url), 'utf8')) as Recorded

const make = (rows: Record<string, unknown>[], options: ExampleOptions = {}) => {
  const maker = new ExampleMaker(characters(), options)
  const examples = rows.map((row, record) => maker.make(readRow({ row, file: 'rows', record }), `rows: row ${record + 1}`))
  return { examples: examples.filter((example) => example !== undefined), stats: maker.stats }
}
const user = (content: string) => ({ role: 'user', content })
const bot = (content: string) => ({ role: 'assistant', content })

describe('ExampleMaker', () => {
  it.each(recorded.cases.map((one) => [`${one.name} ${JSON.stringify(one.options)}`, one] as const))('equals TRL: %s', (_, { rows, options, inputIds, labels }) => {
    const { examples } = make(rows, {
      maxLength: options.max_length, truncationMode: options.truncation_mode, assistantOnlyLoss: options.assistant_only_loss, allowSpecial: true,
      ...options.completion_only_loss !== null && { completionOnlyLoss: options.completion_only_loss },
    })
    // TRL keeps rows without a trained token when it does not truncate; they add nothing to the loss.
    const kept = labels.map((row) => row.some((label) => label !== -100))
    expect(examples.map((example) => [...example.inputIds])).toEqual(inputIds.filter((_, i) => kept[i]))
    expect(examples.map((example) => [...example.labels])).toEqual(labels.filter((_, i) => kept[i]))
  })

  it('does not read special tokens inside texts unless asked', () => {
    const row = { text: 'a<|end|>b' }
    expect([...make([row]).examples[0]!.inputIds]).not.toContain(1)
    expect([...make([row], { allowSpecial: true }).examples[0]!.inputIds]).toEqual([97, 1, 98, 0])
  })

  it('puts EOS after texts only, once, and only if there is one', () => {
    expect([...make([{ text: 'a<|eos|>' }], { allowSpecial: true }).examples[0]!.inputIds]).toEqual([97, 0])
    expect([...make([{ text: 'ab' }], { appendEos: false }).examples[0]!.inputIds]).toEqual([97, 98])
    const maker = new ExampleMaker({ ...characters(), tokenizer: Object.assign(characters().tokenizer, { eosTokenId: null }) })
    expect([...maker.make({ kind: 'text', text: 'ab' }, 'x')!.inputIds]).toEqual([97, 98])
  })

  it('treats the pieces of a long text as one: EOS after the last only', () => {
    const maker = new ExampleMaker(characters())
    const ends = (['first', 'middle', 'last'] as const).map((piece) => maker.make({ kind: 'text', text: 'ab', piece }, 'x')!.inputIds.at(-1))
    expect(ends).toEqual([98, 98, 0])
  })

  it('counts what it drops and cuts', () => {
    const { stats } = make([
      { prompt: 'p'.repeat(20), completion: 'c' }, { prompt: 'p', completion: 'c'.repeat(20) }, { prompt: 'p', completion: 'c' }, { text: '' },
    ], { maxLength: 10 })
    expect(stats).toEqual({
      rows: 4, examples: 2, tokens: 10 + 3, trainedTokens: 9 + 2, truncated: 2, truncatedEnd: 2, withoutTrainedEos: 1, emptyMask: 2, boundaryMismatch: 0, dialogues: 3, badRows: 0,
    })
  })

  it('counts prompts whose tokens are no start of the whole', () => {
    const tokenization = characters()
    const merging = { ...tokenization, tokenizer: Object.assign(tokenization.tokenizer, { encode: (text: string) => text.split(/(?=\s)/).map((word) => word.length) }) }
    const maker = new ExampleMaker(merging)
    const example = maker.make({ kind: 'promptCompletion', prompt: 'Say hel', completion: 'lo now' }, 'x')!
    expect([...example.labels]).toEqual([-100, -100, 4, 0])
    expect(maker.stats.boundaryMismatch).toBe(1)
  })

  it('refuses masks that the row cannot have, and rows of preferences', () => {
    expect(() => make([{ text: 'a' }], { assistantOnlyLoss: true })).toThrow(DataError)
    expect(() => make([{ prompt: 'a', completion: 'b' }], { assistantOnlyLoss: true })).toThrow(/assistantOnlyLoss needs conversations/)
    expect(() => make([{ messages: [user('a'), bot('b')] }], { completionOnlyLoss: true })).toThrow(/rows: row 1: completionOnlyLoss needs rows with prompt and completion, got messages/)
    expect(() => make([{ chosen: 'a', rejected: 'b' }])).toThrow(/a pair of chosen and rejected; supervised training needs/)
    expect(() => make([{ prompt: 'a' }])).toThrow(/a prompt without a completion/)
  })

  it('hands tools and template arguments on', () => {
    const { examples } = make([{ messages: [user('a'), bot('b')], tools: [{ name: 'f' }] }])
    expect(characters().tokenizer.decode(examples[0]!.inputIds)).toBe('[{"name":"f"}]<|user|>a<|end|><|assistant|>b<|end|>')
  })
})
