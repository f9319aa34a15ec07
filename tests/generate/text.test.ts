// Proves that streamed text is the whole answer's, that it comes as whole characters, and that no part of a stop string is ever given out.
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { chat, generate, stream, type GeneratedToken, type GenerateOptions, type GenerationOutput } from '../../src/generate/index.ts'
import { StopText } from '../../src/generate/text.ts'
import type { CausalLanguageModel } from '../../src/models/index.ts'
import { chatMLTemplate, type Tokenizer } from '../../src/tokenizers/index.ts'
import { textModel } from './support.ts'

let tokenizer: Tokenizer
let model: CausalLanguageModel
beforeAll(async () => { ({ tokenizer, model } = await textModel()) })
afterAll(() => { model.dispose() })

const sampling: GenerateOptions = { doSample: true, topK: 0, maxNewTokens: 60, seed: 1 }

async function collect(prompt: string, options: GenerateOptions): Promise<{ pieces: GeneratedToken[], output: GenerationOutput }> {
  const pieces: GeneratedToken[] = []
  const generator = stream(model, tokenizer, prompt, options)
  for (;;) {
    const next = await generator.next()
    if (next.done) return { pieces, output: next.value }
    pieces.push(next.value)
  }
}

test('a stop string is found wherever its parts come, and never shown', () => {
  const letters = fc.array(fc.constantFrom('a', 'b', 'ab', 'ba', 'aab', '€'), { maxLength: 30 })
  const stops = fc.array(fc.array(fc.constantFrom('a', 'b', '€'), { minLength: 1, maxLength: 4 }).map((parts) => parts.join('')), { maxLength: 3 })
  fc.assert(fc.property(letters, stops, fc.integer({ min: 0, max: 2 }), (parts, stopStrings, lag) => {
    // A decoder that gives text out up to two tokens late, as for half a character.
    const late: string[] = []
    const decoder = { push: (id: number) => { late.push(parts[id]!); return late.length > lag ? late.shift()! : '' }, end: () => late.splice(0).join('') }
    const text = new StopText(decoder, stopStrings)
    // The stop string that is complete first counts, and of those complete with one token the one that begins first.
    const arrivals = [...Array.from({ length: Math.max(0, parts.length - lag) }, (_, i) => parts.slice(0, i + 1).join('')), parts.join('')]
    const endsOf = (seen: string) => stopStrings.map((stop) => seen.indexOf(stop)).filter((at) => at >= 0)
    const first = arrivals.find((seen) => endsOf(seen).length > 0)
    const expected = first === undefined ? parts.join('') : first.slice(0, Math.min(...endsOf(first)))
    let written = ''
    for (const id of parts.keys()) {
      written += text.push(id)
      expect(expected.startsWith(written)).toBe(true)
      if (text.stopped) break
    }
    written += text.end()
    expect(written).toBe(expected)
    expect(text.stopped).toBe(first !== undefined)
  }), { numRuns: 500 })
})

describe('streaming', () => {
  test.each(['the quick', 'größer', '<|endoftext|>'])('%j: pieces together are the answer of generate()', async (prompt) => {
    const { pieces, output } = await collect(prompt, sampling)
    const [whole] = await generate(model, tokenizer, [prompt], sampling)
    expect(output).toEqual(whole)
    expect(pieces.map(({ text }) => text).join('')).toBe(whole!.text)
    expect(pieces.map(({ tokenId }) => tokenId)).toEqual(whole!.tokenIds)
    expect(pieces.map(({ logprob }) => logprob)).toEqual(whole!.logprobs)
    expect(whole!.text).toBe(tokenizer.decode(whole!.tokenIds, { skipSpecialTokens: true }))
    expect(pieces.filter(({ text }) => text !== '').length).toBeGreaterThan(10)
  })

  test('leaving the loop ends the generation and gives its memory back', async () => {
    await model.device.fence()
    const before = model.device.memory().live
    let count = 0
    for await (const piece of stream(model, tokenizer, 'the', { ...sampling, maxNewTokens: 200 })) {
      expect(piece.tokenId).toBeGreaterThanOrEqual(0)
      if (++count === 5) break
    }
    await new Promise((resolve) => { setTimeout(resolve, 50) })
    await model.device.fence()
    expect(model.device.memory().live).toBe(before)
  })

  test('an error reaches the loop', async () => {
    const failing = stream(model, tokenizer, 'x'.repeat(2000), sampling)
    await expect(failing.next()).rejects.toThrow(/the prompt has \d+ tokens, but the model's context holds 256/)
  })
})

describe('stop strings', () => {
  test('end the answer before they show, across tokens', async () => {
    const [plain] = await generate(model, tokenizer, ['sea shells'], sampling)
    // Every stretch of 3 whole characters inside the answer, most of which span tokens.
    const stops = Array.from({ length: plain!.text.length - 2 }, (_, at) => plain!.text.slice(at, at + 3)).filter((stop) => !stop.includes('\ufffd'))
    expect(stops.length).toBeGreaterThan(5)
    for (const stop of stops) {
      const { pieces, output } = await collect('sea shells', { ...sampling, stopStrings: [stop, 'never comes'] })
      expect(output.text).toBe(plain!.text.slice(0, plain!.text.indexOf(stop)))
      expect(output.finishReason).toBe('stopString')
      expect(output.tokenIds).toEqual(plain!.tokenIds.slice(0, output.tokenIds.length))
      expect(pieces.map(({ text }) => text).join('')).toBe(output.text)
      expect(tokenizer.decode(output.tokenIds)).toContain(stop)
      expect(tokenizer.decode(output.tokenIds.slice(0, -1))).not.toContain(stop)
    }
  })

  test('need a tokenizer', async () => {
    await expect(generate(model, null, [[1, 2]], { stopStrings: 'x' })).rejects.toThrow('stopStrings: a tokenizer is needed')
  })
})

test('the ending token is among the tokens but not in the text', async () => {
  const [plain] = await generate(model, tokenizer, ['dog'], sampling)
  const end = plain!.tokenIds[7]!
  const [ended] = await generate(model, tokenizer, ['dog'], { ...sampling, eosTokenId: end })
  const length = plain!.tokenIds.indexOf(end) + 1
  expect(ended!.tokenIds).toEqual(plain!.tokenIds.slice(0, length))
  expect(ended!.text).toBe(tokenizer.decode(plain!.tokenIds.slice(0, length - 1), { skipSpecialTokens: true }))
  expect(ended!.finishReason).toBe('stop')
})

describe('chat', () => {
  test('answers by the chat template and ends at the turn\'s end', async () => {
    tokenizer.chatTemplate = chatMLTemplate
    tokenizer.setSpecialToken('eosToken', '<|im_end|>')
    const messages = [{ role: 'user', content: 'the lazy dog <|im_end|>' }]
    const output = await chat(model, tokenizer, messages, sampling)
    expect(output.message).toEqual({ role: 'assistant', content: output.text })
    const rendered = tokenizer.applyChatTemplate([{ role: 'user', content: 'the lazy dog ' }], { tokenize: false, addGenerationPrompt: true })
    expect(output.promptTokens).toBeGreaterThan(tokenizer.encode(rendered).length)
    // A base model's file names another end; a conversation still ends with the turn.
    const end = tokenizer.eosTokenId!
    model.generationConfig = { eos_token_id: 0 }
    const many = await generate(model, tokenizer, messages, { ...sampling, numReturnSequences: 40, maxNewTokens: 100, eosTokenId: undefined })
    const ended = many.filter(({ finishReason }) => finishReason === 'stop')
    expect(new Set(ended.map(({ tokenIds }) => tokenIds.at(-1)))).toEqual(new Set([0, end]))
    for (const { tokenIds } of many) expect(tokenIds.slice(0, -1).some((id) => id === end || id === 0)).toBe(false)
    model.generationConfig = undefined
  })

  test('messages need a tokenizer, and one with a template', async () => {
    await expect(generate(model, undefined, [{ role: 'user', content: 'x' }])).rejects.toThrow('a tokenizer is needed for a prompt of messages')
    await expect(generate(model, null, 'text')).rejects.toThrow('a tokenizer is needed for a prompt of text')
  })
})
