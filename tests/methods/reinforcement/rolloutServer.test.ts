// Proves that rollouts come from an OpenAI-compatible server: what is asked, how tokens, log-probabilities and ends are read, and errors by name.
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { serverSource } from '../../../src/methods/reinforcement/rollouts/server.ts'
import type { Rollout } from '../../../src/methods/reinforcement/rollouts/rollouts.ts'
import type { Tokenizer } from '../../../src/tokenizers/index.ts'
import { textModel } from '../../generate/support.ts'

interface Asked { path: string | undefined, authorization: string | undefined, body: Record<string, unknown> }

let tokenizer: Tokenizer
let server: Server
let url: string
let asked: Asked[] = []
let reply: (body: Record<string, unknown>) => { status?: number, json: unknown, text?: string }

async function bodyOf(request: IncomingMessage): Promise<Record<string, unknown>> {
  let text = ''
  for await (const piece of request) text += String(piece)
  return JSON.parse(text) as Record<string, unknown>
}

beforeAll(async () => {
  const made = await textModel()
  tokenizer = made.tokenizer
  made.model.dispose()
  server = createServer((request, response) => {
    void bodyOf(request).then((body) => {
      asked.push({ path: request.url, authorization: request.headers.authorization, body })
      const { status = 200, json, text = JSON.stringify(json) } = reply(body)
      response.writeHead(status, { 'content-type': 'application/json' }).end(text)
    })
  })
  await new Promise<void>((done) => { server.listen(0, '127.0.0.1', done) })
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`
})
afterAll(() => { server.close() })
afterEach(() => { asked = [] })

const prompts = [Int32Array.of(5, 6), Int32Array.of(7)]
const options = { seed: 3, step: 2, numGenerations: 2, maxCompletionLength: 8, temperature: 0.7, topK: 20, minP: 0.1, repetitionPenalty: 1.2, stopStrings: ['.'] }

test('token ids and log-probabilities are taken as the server gives them, group by group', async () => {
  reply = ({ prompt }) => ({ json: { choices: [{ text: 'ab', finish_reason: 'stop', token_ids: [...prompt as number[], 9], logprobs: { token_logprobs: [...(prompt as number[]).map(() => -0.5), null] } }] } })
  const groups: (readonly Rollout[])[] = []
  const rollouts = await serverSource(url, tokenizer, { model: 'policy', apiKey: 'secret' })(prompts, { ...options, onGroup: (group) => { groups.push(group) } })
  expect(rollouts.map(({ prompt, sample }) => [prompt, sample])).toEqual([[0, 0], [0, 1], [1, 0], [1, 1]])
  expect(groups.map((group) => group.length)).toEqual([2, 2])
  expect(Array.from(rollouts[0]!.completionIds)).toEqual([5, 6, 9])
  expect(Array.from(rollouts[0]!.logprobs)).toEqual([-0.5, -0.5, NaN])
  expect(rollouts[0]).toMatchObject({ finishReason: 'stop', text: 'ab' })
  expect(asked.every(({ path, authorization }) => path === '/v1/completions' && authorization === 'Bearer secret')).toBe(true)
  expect(asked[0]!.body).toMatchObject({ model: 'policy', max_tokens: 8, temperature: 0.7, top_k: 20, min_p: 0.1, repetition_penalty: 1.2, stop: ['.'], return_token_ids: true })
  const seeds = asked.map(({ body }) => body['seed'] as number)
  expect(new Set(seeds).size).toBe(4)
  expect(seeds.every((seed) => Number.isInteger(seed) && seed >= 0)).toBe(true)
})

test('without token ids the text is tokenized, with the end where it stopped, and log-probabilities are unknown', async () => {
  const seen: string[] = []
  reply = () => ({ json: { choices: [{ text: 'the quick', finish_reason: seen.push('x') === 1 ? 'stop' : 'length' }] } })
  const [stopped, cut] = await serverSource(url, tokenizer)([prompts[1]!], options)
  const ids = tokenizer.encode('the quick', { addSpecialTokens: false })
  const ended = [stopped!, cut!].find(({ finishReason }) => finishReason === 'stop')!
  const other = [stopped!, cut!].find(({ finishReason }) => finishReason === 'length')!
  expect(Array.from(other.completionIds)).toEqual(ids)
  expect(Array.from(ended.completionIds)).toEqual(tokenizer.eosTokenId === undefined ? ids : [...ids, tokenizer.eosTokenId])
  expect(ended.logprobs.every(Number.isNaN)).toBe(true)
})

test.each<[string, () => { status?: number, json: unknown, text?: string }]>([
  ['answered 503: {"error":"busy"}', () => ({ status: 503, json: { error: 'busy' } })],
  ['did not answer as OpenAI\'s completions do: choices', () => ({ json: { answer: 'x' } })],
  ['did not answer with JSON', () => ({ json: null, text: '<html>' })],
  ['answered prompt 0 with no tokens', () => ({ json: { choices: [{ text: '', finish_reason: 'length' }] } })],
])('says "%s"', async (message, answer) => {
  reply = answer
  await expect(serverSource(url, tokenizer)([prompts[0]!], options)).rejects.toThrow(new RegExp(`^rolloutServer: .*${message.replace(/[.{}]/g, '\\$&')}`))
})

test('a server that is not there is named', async () => {
  await expect(serverSource('http://127.0.0.1:1', tokenizer)([prompts[0]!], options)).rejects.toThrow('rolloutServer: http://127.0.0.1:1/completions cannot be reached')
})

test('a URL with a password is refused without naming it, and one that is none by name', () => {
  const given = (url: string) => (): unknown => serverSource(url, tokenizer)
  expect(given('http://me:hunter2@localhost/v1')).toThrow(/^rolloutServer: expected a URL without a user name and password; give a key by rolloutServerApiKeyEnv$/)
  expect(given('localhost')).toThrow('rolloutServer: expected a URL such as http://localhost:8000/v1, got "localhost"')
  expect(given('file:///v1')).toThrow('rolloutServer: expected a URL of http or https, got file:')
})
