// Proves that rows of every known shape become one form, and that what is not known is named with advice.
import { describe, expect, it } from 'vitest'
import { DataError } from '../../src/errors.ts'
import { checkFormatOptions, readRow, recogniseFormat, type DataFormat, type FormatOptions } from '../../src/data/formats.ts'

const source = (row: Record<string, unknown>) => ({ row, file: 'train.jsonl', line: 17, record: 16 })
const user = { role: 'user', content: 'Hi' }
const bot = { role: 'assistant', content: 'Hello' }

describe('recogniseFormat', () => {
  it.each<[DataFormat, Record<string, unknown>]>([
    ['text', { text: 'a', id: 3 }],
    ['messages', { messages: [user, bot] }],
    ['sharegpt', { conversations: [{ from: 'human', value: 'Hi' }] }],
    ['alpaca', { instruction: 'Do', input: '', output: 'Done' }],
    ['promptCompletion', { prompt: 'a', completion: 'b', text: 'ab' }],
    ['prompt', { prompt: 'a' }],
    ['preference', { prompt: 'a', chosen: 'b', rejected: 'c' }],
    ['preference', { chosen: [user, bot], rejected: [user, bot] }],
    ['unpairedPreference', { prompt: 'a', completion: 'b', label: true }],
    ['promptCompletion', { prompt: 'a', completion: 'b', label: null }],
  ])('%s', (format, row) => {
    expect(recogniseFormat(source(row))).toBe(format)
  })

  it('lists what it found and what it knows, and guesses', () => {
    const run = (row: Record<string, unknown>, options?: FormatOptions) => () => recogniseFormat(source(row), options)
    expect(run({ txt: 'a', id: 1 })).toThrow(DataError)
    expect(run({ txt: 'a', id: 1 })).toThrow(/train\.jsonl:17: the columns "txt", "id" are none of the known shapes: .*text \(text\).*did you mean "text" by "txt"\? Pass columns: \{ text: "txt" \}/)
    expect(run({ foo: 1 })).toThrow(/map your columns with columns/)
    expect(run({})).toThrow(/the columns none are/)
    expect(run({ question: 'a', answer: 'b' }, { columns: { prompt: 'question', completion: 'anwser' } })).not.toThrow()
    expect(run({ body: 'a' }, { columns: { text: 'bdoy' } })).toThrow(/columns\.text names the column "bdoy", which the row does not have; did you mean "body"\?/)
  })

  it('does not see inherited properties', () => {
    expect(() => recogniseFormat(source(Object.create({ text: 'a' }) as Record<string, unknown>))).toThrow(DataError)
  })
})

describe('readRow', () => {
  const read = (row: Record<string, unknown>, options?: FormatOptions) => readRow(source(row), options)

  it('reads strings and messages, with tools and template arguments', () => {
    expect(read({ text: 'a' })).toEqual({ kind: 'text', text: 'a' })
    expect(read({ messages: [user, bot], tools: '[{"type":"function"}]', chat_template_kwargs: { enable_thinking: false } }))
      .toEqual({ kind: 'messages', messages: [user, bot], tools: [{ type: 'function' }], chatTemplateKwargs: { enable_thinking: false } })
    expect(read({ messages: JSON.stringify([user, bot]) })).toEqual({ kind: 'messages', messages: [user, bot] })
    expect(read({ prompt: [user], completion: [bot] })).toEqual({ kind: 'promptCompletion', prompt: [user], completion: [bot] })
    expect(read({ prompt: [user], completion: bot })).toEqual({ kind: 'promptCompletion', prompt: [user], completion: [bot] })
    expect(read({ prompt: [user] })).toEqual({ kind: 'prompt', prompt: [user] })
    expect(read({ prompt: 'a', chosen: 'b', rejected: 'c' })).toEqual({ kind: 'preference', prompt: 'a', chosen: 'b', rejected: 'c' })
    expect(read({ chosen: 'b', rejected: 'c' })).toEqual({ kind: 'preference', prompt: undefined, chosen: 'b', rejected: 'c' })
    expect(read({ prompt: 'a', completion: 'b', label: 0 })).toEqual({ kind: 'unpairedPreference', prompt: 'a', completion: 'b', label: false })
  })

  it('keeps tool calls and drops the nulls that Parquet adds', () => {
    const call = { role: 'assistant', content: null, tool_calls: [{ function: { name: 'f', arguments: {} } }], name: null }
    expect(read({ messages: [user, call] })).toEqual({ kind: 'messages', messages: [user, { role: 'assistant', content: null, tool_calls: call.tool_calls }] })
  })

  it('reads ShareGPT with system, tools and function calls', () => {
    const conversations = [
      { from: 'human', value: 'Weather?' }, { from: 'function_call', value: '{"name":"weather","arguments":{"city":"Oslo"}}' }, { from: 'observation', value: 'rain' }, { from: 'gpt', value: 'Rain.' },
    ]
    expect(read({ conversations, system: 'Be brief.', tools: '' })).toEqual({
      kind: 'messages',
      messages: [
        { role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Weather?' },
        { role: 'assistant', content: '', tool_calls: [{ type: 'function', function: { name: 'weather', arguments: { city: 'Oslo' } } }] },
        { role: 'tool', content: 'rain' }, { role: 'assistant', content: 'Rain.' },
      ],
    })
    expect(read({ conversations: [user, bot] })).toMatchObject({ messages: [user, bot] })
  })

  it('reads Alpaca as a conversation or as Stanford wrote it', () => {
    const row = { instruction: 'Add.', input: '1, 2', output: '3', system: 'Be brief.', history: [['Hi', 'Hello']] }
    expect(read(row)).toEqual({
      kind: 'promptCompletion',
      prompt: [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Hello' }, { role: 'user', content: 'Add.\n1, 2' }],
      completion: [{ role: 'assistant', content: '3' }],
    })
    expect(read({ instruction: 'Add.', input: '', output: '3' }, { alpacaStyle: 'stanford' })).toEqual({
      kind: 'promptCompletion', completion: '3',
      prompt: 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Response:\n',
    })
  })

  it('maps columns', () => {
    expect(read({ question: 'a', answer: 'b', text: 'x' }, { columns: { prompt: 'question', completion: 'answer' } })).toEqual({ kind: 'promptCompletion', prompt: 'a', completion: 'b' })
    expect(read({ content: 'a' }, { format: 'text', columns: { text: 'content' } })).toEqual({ kind: 'text', text: 'a' })
  })

  it.each<[Record<string, unknown>, RegExp, FormatOptions?]>([
    [{ text: 5 }, /train\.jsonl:17: text: expected a string, got a number/],
    [{ messages: [] }, /messages: expected an array of messages, got an empty array/],
    [{ messages: ['Hi'] }, /messages\[0\]: expected a message \{role, content\}, got a string/],
    [{ messages: [{ content: 'Hi' }] }, /messages\[0\]\.role: expected a role .*the message has "content"/],
    [{ messages: [{ role: 'user', content: 5 }] }, /messages\[0\]\.content: expected a string/],
    [{ messages: [{ role: 'user' }] }, /messages\[0\]\.content: expected a string.*got undefined/],
    [{ messages: [{ role: 'user', content: [{ type: 'image' }] }] }, /a part of type "image" cannot be trained on/],
    [{ messages: [user], tools: 'x' }, /tools: expected an array of tools or its JSON/],
    [{ messages: [user], tools: {} }, /tools: expected an array of tools, got an object/],
    [{ conversations: [{ from: 'hunan', value: 'Hi' }] }, /conversations\[0\]\.from: unknown speaker "hunan"; did you mean "human"\?/],
    [{ conversations: [{ from: 'human', value: null }] }, /conversations\[0\]\.value: expected a string, got null/],
    [{ prompt: 'a', completion: [bot] }, /prompt is a string, completion is an array of messages; expected all to be of one form/],
    [{ prompt: 'a', completion: 'b', label: 'maybe' }, /label: expected true or false/],
    [{ instruction: 'a', output: 'b', history: [['x']] }, /history\[0\]: expected \[question, answer\]/],
    [{ prompt: 'a' }, /expected the column "completion" of the format promptCompletion; the row has "prompt"/, { format: 'promptCompletion' }],
  ])('refuses %j', (row, message, options) => {
    expect(() => read(row, options)).toThrow(DataError)
    expect(() => read(row, options)).toThrow(message)
  })
})

describe('checkFormatOptions', () => {
  it('suggests the right spelling', () => {
    expect(() => { checkFormatOptions({ format: 'mesages' as DataFormat }) }).toThrow(/did you mean "messages"/)
    expect(() => { checkFormatOptions({ columns: { promt: 'x' } }) }).toThrow(/columns\.promt: not a column anneal knows; did you mean "prompt"/)
  })
})
