// Proves that conversations with an environment keep the model's tokens as it drew them, mask what it did not write, and end as they should; that tool calls
// are read in the formats of Hermes and Llama 3; and that functions are run with their mistakes shown to the model.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { DataError, TokenizerError } from '../../../src/errors.ts'
import type { GenerationOutput } from '../../../src/generate/index.ts'
import type { Environment } from '../../../src/methods/reinforcement/environment/environment.ts'
import { runEpisode, type EpisodeOptions, type GenerateTurn } from '../../../src/methods/reinforcement/environment/episode.ts'
import { parseToolCalls, toolCallFormatOf } from '../../../src/methods/reinforcement/environment/toolCalls.ts'
import { toolEnvironment, type Tool } from '../../../src/methods/reinforcement/environment/tools.ts'
import { chatMLTemplate, tokenizeConversation, type Tokenizer } from '../../../src/tokenizers/index.ts'
import { makeTokenizer } from '../support.ts'

let tokenizer: Tokenizer
let eos: number
beforeAll(async () => {
  const folder = mkdtempSync(join(tmpdir(), 'anneal-'))
  tokenizer = await makeTokenizer(folder)
  eos = tokenizer.eosTokenId!
  rmSync(folder, { recursive: true })
})

const lettersOf = (text: string): number[] => text.split('').flatMap((letter) => tokenizer.encode(letter, { addSpecialTokens: false }))

/** A model that says these texts one after another; `split` cuts each text into tokens in a way that encoding it anew would not. */
function scripted(texts: readonly string[], { split = false, end = true }: { split?: boolean; end?: boolean } = {}): GenerateTurn & { prompts: Int32Array[] } {
  const prompts: Int32Array[] = []
  const say: GenerateTurn = (promptIds, { maxNewTokens, turn }) => {
    prompts.push(promptIds)
    const text = texts[turn]!
    const ids = split ? lettersOf(text) : tokenizer.encode(text, { addSpecialTokens: false })
    const tokenIds = [...ids, ...(end ? [eos] : [])].slice(0, maxNewTokens)
    const output: GenerationOutput = {
      tokenIds, text, logprobs: tokenIds.map((_, i) => -1 - i), promptTokens: promptIds.length, finishReason: tokenIds.at(-1) === eos ? 'stop' : end ? 'length' : 'stopString',
    }
    return Promise.resolve(output)
  }
  return Object.assign(say, { prompts })
}

const options = (generate: GenerateTurn, more: Partial<EpisodeOptions> = {}): EpisodeOptions => ({ generate, tokenizer, maxCompletionLength: 400, maxTurns: 8, ...more })

/** Asks three times, gives a reward for each answer. */
const quiz = (): Environment<{ question: string }> => ({
  reset: ({ question }) => [{ role: 'user', content: question }],
  step: (text, { turn }) => (turn === 2 ? { reward: 0.5, done: true } : { observation: `you said ${text}`, reward: turn, done: false }),
})

describe('token in, token out', () => {
  test('the whole is the prompt, the drawn tokens and masked observations, and each prompt goes on from the one before', async () => {
    const generate = scripted(['a dog', 'the moon', 'bread'], { split: true })
    const episode = await runEpisode(quiz(), { question: 'What?' }, options(generate))
    expect(episode).toMatchObject({ turns: 3, end: 'done', ended: true, reward: 1.5 })
    const whole = [...episode.promptIds, ...episode.completionIds]
    for (const prompt of generate.prompts) expect(whole.slice(0, prompt.length)).toEqual([...prompt])
    // The tokens that count are those that were drawn, letter by letter, which encoding the text would have merged.
    const drawn = [...episode.completionIds].filter((_, i) => episode.mask[i] === 1)
    const letters = ['a dog', 'the moon', 'bread'].flatMap((text) => [...lettersOf(text), eos])
    expect(drawn).toEqual(letters)
    expect(letters.length).toBeGreaterThan(['a dog', 'the moon', 'bread'].flatMap((text) => tokenizer.encode(text, { addSpecialTokens: false })).length + 3)
    expect([...episode.logprobs].every((x, i) => (episode.mask[i] === 1) === (x !== 0))).toBe(true)
    // A turn's reward lies on its last token.
    const ends = [...episode.completionIds].flatMap((id, i) => (id === eos && episode.mask[i] === 1 ? [i] : []))
    expect(ends.map((i) => episode.tokenRewards[i])).toEqual([0, 1, 0.5])
  })

  test('where encoding gives the same tokens, it equals the rendered conversation', async () => {
    const episode = await runEpisode(quiz(), { question: 'What?' }, options(scripted(['a dog', 'the moon', 'bread'])))
    const { inputIds, assistantMask } = tokenizeConversation(tokenizer, episode.messages)
    const whole = [...episode.promptIds, ...episode.completionIds]
    expect(inputIds.slice(0, whole.length)).toEqual(whole)
    expect(tokenizer.decode(inputIds.slice(whole.length))).toBe('\n')
    // The rendered mask also holds the line break after each answer, which the model does not draw.
    expect([...episode.mask].every((one, i) => one === 0 || assistantMask[episode.promptIds.length + i] === 1)).toBe(true)
  })

  test('a turn that a stop string ended is closed by masked tokens', async () => {
    const episode = await runEpisode(quiz(), { question: 'What?' }, options(scripted(['a dog', 'the moon', 'bread'], { end: false })))
    const first = episode.mask.indexOf(0)
    expect(episode.completionIds[first]).toBe(eos)
    expect(tokenizer.decode(episode.completionIds, { skipSpecialTokens: false })).toBe('a dog<|im_end|>\n<|im_start|>user\nyou said a dog<|im_end|>\n<|im_start|>assistant\n'
      + 'the moon<|im_end|>\n<|im_start|>user\nyou said the moon<|im_end|>\n<|im_start|>assistant\nbread')
  })

  test('special tokens that an observation spells are letters', async () => {
    const environment: Environment = { reset: () => [{ role: 'user', content: 'go' }], step: (_, { turn }) => (turn === 1 ? { done: true } : { observation: 'x<|im_end|>y', done: false }) }
    const { completionIds, mask } = await runEpisode(environment, {}, options(scripted(['a', 'b'])))
    // One closes the observation; that of the first answer was drawn.
    expect([...completionIds].filter((id, i) => id === eos && mask[i] === 0)).toHaveLength(1)
  })

  test('a template that rewrites what was before is refused', async () => {
    const shortened = chatMLTemplate.replace("{{- message.content }}", "{{- message.content if loop.last else 'gone' }}")
    await expect(runEpisode(quiz(), { question: 'What?' }, options(scripted(['a dog', 'b', 'c']), { chatTemplate: shortened }))).rejects.toThrow(/writes earlier messages differently/)
    const endless = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    await expect(runEpisode(quiz(), { question: 'What?' }, options(scripted(['a dog', 'b', 'c']), { chatTemplate: endless }))).rejects.toThrow(TokenizerError)
  })
})

describe('ends', () => {
  test.each([[3, 'done', 3], [2, 'maxTurns', 2], [1, 'maxTurns', 1]] as const)('at most %d turns: %s', async (maxTurns, end, turns) => {
    expect(await runEpisode(quiz(), { question: 'What?' }, options(scripted(['a', 'b', 'c']), { maxTurns }))).toMatchObject({ end, turns })
  })

  test('every length is within maxCompletionLength and ends with tokens of the model', async () => {
    for (let maxCompletionLength = 1; maxCompletionLength < 120; maxCompletionLength += 7) {
      const episode = await runEpisode(quiz(), { question: 'What?' }, options(scripted(['a dog', 'the moon', 'bread']), { maxCompletionLength }))
      expect(episode.completionIds.length).toBeLessThanOrEqual(maxCompletionLength)
      expect(episode.mask.at(-1)).toBe(1)
      expect(['done', 'length']).toContain(episode.end)
    }
  })

  test('close is called, also after a failure', async () => {
    let closed = 0
    const failing: Environment = { reset: () => [{ role: 'user', content: 'go' }], step: () => { throw new Error('broken') }, close: () => { closed++ } }
    await expect(runEpisode(failing, {}, options(scripted(['a'])))).rejects.toThrow('broken')
    await runEpisode({ ...failing, step: () => ({ done: true }) }, {}, options(scripted(['a'])))
    expect(closed).toBe(2)
  })

  test('a reward of what is cut off is a number', async () => {
    const cut = (reward: number): Environment => ({ reset: () => [{ role: 'user', content: 'a' }], step: () => ({ observation: 'b', done: false }), cutOff: () => reward })
    expect((await runEpisode(cut(0.5), {}, options(scripted(['a']), { maxTurns: 1 }))).reward).toBe(0.5)
    await expect(runEpisode(cut(NaN), {}, options(scripted(['a']), { maxTurns: 1 }))).rejects.toThrow('environment: cutOff: expected a finite number or nothing, got NaN')
  })

  test('a step that takes too long', async () => {
    const slow: Environment = { reset: () => [{ role: 'user', content: 'go' }], step: () => new Promise(() => undefined) }
    await expect(runEpisode(slow, {}, options(scripted(['a']), { timeout: 20 }))).rejects.toThrow('environment: step 0 took longer than 20 ms')
  })

  test.each<[string, unknown]>([
    ['expected an object', null], ['expected done: true or false, got undefined', {}], ['expected reward: a finite number, got "NaN"', { done: true, reward: NaN }],
    ['expected an observation, as done is false', { done: false }], ['expected observation: a text or a list of messages', { done: false, observation: [] }],
  ])('says "%s"', async (message, step) => {
    const environment: Environment = { reset: () => [{ role: 'user', content: 'go' }], step: () => step as never }
    const failure = runEpisode(environment, {}, options(scripted(['a'])))
    await expect(failure).rejects.toThrow(message)
    await expect(failure).rejects.toThrow(DataError)
  })
})

describe('tool calls', () => {
  test('Hermes and Qwen', () => {
    expect(parseToolCalls('I look.\n<tool_call>\n{"name": "find", "arguments": {"what": "a"}}\n</tool_call>\n<tool_call>{"name": "find", "arguments": "{\\"what\\": 2}"}</tool_call>', 'hermes')).toEqual({
      content: 'I look.', malformed: [], calls: [{ name: 'find', arguments: { what: 'a' } }, { name: 'find', arguments: { what: 2 } }],
    })
    expect(parseToolCalls('no call', 'hermes')).toEqual({ content: 'no call', calls: [], malformed: [] })
    expect(parseToolCalls('<tool_call>{"name": "f"', 'hermes').malformed).toHaveLength(1)
    for (const text of ['[1]', '{"arguments": {}}', '{"name": "f", "arguments": [1]}', '{"name": "f", "arguments": "x"}', '{name: f}']) {
      expect(parseToolCalls(`<tool_call>${text}</tool_call>`, 'hermes'), text).toMatchObject({ calls: [], malformed: [{ text }] })
    }
  })

  test('Llama 3', () => {
    expect(parseToolCalls('{"name": "find", "parameters": {"what": "}{"}}', 'llama3').calls).toEqual([{ name: 'find', arguments: { what: '}{' } }])
    expect(parseToolCalls('<|python_tag|>{"name": "a", "parameters": {}}; {"name": "b", "parameters": {"x": {"y": 1}}}', 'llama3').calls).toEqual([{ name: 'a', arguments: {} }, { name: 'b', arguments: { x: { y: 1 } } }])
    expect(parseToolCalls('<|python_tag|>brave_search.call(query="who \\"won\\"")', 'llama3').calls).toEqual([{ name: 'brave_search', arguments: { query: 'who "won"' } }])
    expect(parseToolCalls('<|python_tag|>print(1)', 'llama3').calls).toEqual([{ name: 'code_interpreter', arguments: { code: 'print(1)' } }])
    expect(parseToolCalls('The answer is {1}.', 'llama3')).toEqual({ content: 'The answer is {1}.', calls: [], malformed: [] })
    expect(parseToolCalls('{"name": "a", "parameters": {', 'llama3').malformed).toHaveLength(1)
  })

  test('the format is known from the template', () => {
    expect(toolCallFormatOf(chatMLTemplate)).toBe('hermes')
    expect(toolCallFormatOf('{{ "<|python_tag|>" }}')).toBe('llama3')
    expect(() => toolCallFormatOf('{{ messages }}')).toThrow('give toolCallFormat')
  })
})

describe('tools', () => {
  const add: Tool = {
    name: 'add', description: 'adds', parameters: { type: 'object', properties: { a: { type: 'number' }, b: { type: 'number' } }, required: ['a', 'b'], additionalProperties: false },
    run: async ({ a, b }) => { await Promise.resolve(); return { sum: (a as number) + (b as number) } },
  }
  const call = (name: string, args: unknown): string => `<tool_call>\n${JSON.stringify({ name, arguments: args })}\n</tool_call>`

  /** What the model is told after a call. */
  async function told(said: string, tools: readonly Tool[] = [add], more: { toolTimeout?: number; maxResultLength?: number } = {}): Promise<string> {
    const { messages } = await runEpisode(toolEnvironment({ tools, ...more })(), { prompt: 'go' }, options(scripted([said, 'done'])))
    return messages.filter(({ role }) => role === 'tool').map(({ content }) => content as string).join('|')
  }

  test('calls are run, results are shown and masked, and the last answer is judged', async () => {
    const environment = toolEnvironment<{ prompt: string; answer: string }>({
      tools: [add], reward: ({ answer: wanted }, { answer, calls, failures }) => (answer === wanted ? 1 : 0) + calls / 10 - failures,
    })
    const episode = await runEpisode(environment(), { prompt: '2 + 3?', answer: '5' }, options(scripted([call('add', { a: 2, b: 3 }), '5'])))
    expect(episode).toMatchObject({ turns: 2, end: 'done', reward: 1.1 })
    expect(episode.messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'tool', 'assistant'])
    const masked = tokenizer.decode([...episode.completionIds].filter((_, i) => episode.mask[i] === 0))
    expect(masked).toContain('{"sum":5}')
    expect(tokenizer.decode(episode.promptIds)).toContain('"name": "add"')
  })

  test('a conversation that is cut off before an answer is judged, too', async () => {
    const environment = toolEnvironment<{ prompt: string }>({ tools: [add], reward: (_, { answer, calls }) => (answer === '' ? -1 : 1) + calls / 10 })
    const asks = call('add', { a: 2, b: 3 })
    expect(await runEpisode(environment(), { prompt: 'go' }, options(scripted([asks, asks]), { maxTurns: 2 }))).toMatchObject({ turns: 2, end: 'maxTurns', reward: -0.8 })
    const length = await runEpisode(environment(), { prompt: 'go' }, options(scripted([asks]), { maxCompletionLength: tokenizer.encode(asks).length + 4 }))
    expect(length).toMatchObject({ end: 'length', reward: -0.9 })
    expect(length.tokenRewards.at(-1)).toBe(-0.9)
  })

  test('two calls of one answer, in order', async () => {
    expect(await told(call('add', { a: 1, b: 1 }) + call('add', { a: 1, b: 2 }))).toBe('{"sum":2}|{"sum":3}')
  })

  test.each([
    ['no function "sub"; there are add', call('sub', {})], ['missing argument "b"', call('add', { a: 1 })], ['argument "b" must be number, but is "2"', call('add', { a: 1, b: '2' }).replaceAll('\\"', '"')],
    ['unknown argument "c"', call('add', { a: 1, b: 2, c: 3 })], ['the call could not be read: not valid JSON', '<tool_call>{</tool_call>'],
  ])('the model is told: %s', async (message, said) => { expect((await told(said)).replaceAll('\\"', '"')).toContain(message) })

  test('a function that throws, hangs, returns nothing or too much', async () => {
    const of = (run: Tool['run']): Tool => ({ name: 'f', description: '', parameters: {}, run })
    expect(await told(call('f', {}), [of(() => { throw new Error('no') })])).toBe('{"error":"no"}')
    let aborted = false
    const hang = of((_, { signal }) => new Promise(() => { signal!.addEventListener('abort', () => { aborted = true }) }))
    expect(await told(call('f', {}), [hang], { toolTimeout: 20 })).toBe('{"error":"f took longer than 20 ms"}')
    expect(aborted).toBe(true)
    expect(await told(call('f', {}), [of(() => undefined)])).toBe('null')
    expect(await told(call('f', {}), [of(() => 'x'.repeat(20))], { maxResultLength: 5 })).toBe('xxxxx… (15 characters more)')
  })

  test('two tools of one name, and a row without a prompt, are refused', async () => {
    expect(() => toolEnvironment({ tools: [add, add] })).toThrow('two tools have the same name')
    await expect(runEpisode(toolEnvironment({ tools: [add] })(), {}, options(scripted(['a'])))).rejects.toThrow('the row has no "prompt"')
  })
})
