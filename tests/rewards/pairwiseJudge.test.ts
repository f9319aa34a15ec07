// Proves that a judging model over HTTP compares two answers whichever it reads first, that what it cannot say is null, and that a failure or a time-out counts as no reward.
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import { judgeInstruction, llmPairwiseJudge, pairwiseReward, RewardRunner, type AnswerPair, type PairwiseJudge, type PairwiseJudgeOptions, type RewardSample } from '../../src/rewards/index.ts'

const sample = (completion: string, prompt: RewardSample['prompt'] = 'Which?'): RewardSample =>
  ({ prompt, completion, promptIds: Int32Array.of(1), completionIds: Int32Array.from(Buffer.from(completion)), finishReason: 'stop', row: {} })
const pairOf = (first: string, second: string): AnswerPair => [sample(first), sample(second)]

let server: Server
let url: string
let asked: { content: string, authorization: string | undefined, model: string, maxTokens: number }[] = []
let busy = 0
/** What the server answers; the pair as it reads them. */
let reply: (first: string, second: string) => string | undefined
beforeAll(async () => {
  server = createServer((request, response) => {
    let text = ''
    request.on('data', (part: Buffer) => { text += part.toString() })
    request.on('end', () => {
      const { model, max_tokens: maxTokens, messages } = JSON.parse(text) as { model: string, max_tokens: number, messages: { content: string }[] }
      const { content } = messages[0]!
      asked.push({ content, authorization: request.headers.authorization, model, maxTokens })
      if (busy-- > 0) { response.writeHead(503).end('later'); return }
      const said = reply(/<answer id="0">\n(.*)\n/.exec(content)?.[1] ?? '', /<answer id="1">\n(.*)\n/.exec(content)?.[1] ?? '')
      // No reply at all is one that never comes.
      if (said !== undefined) response.end(JSON.stringify({ choices: [{ message: { content: said } }] }))
    })
  })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`
})
afterAll(() => {
  server.closeAllConnections()
  server.close()
})
/** Prefers the longer one. */
const longer = (first: string, second: string): string => (first.length >= second.length ? '0' : '1')
beforeEach(() => { [asked, busy, reply] = [[], 0, longer] })

const judge = (options: Partial<PairwiseJudgeOptions> = {}): PairwiseJudge => llmPairwiseJudge({ url, model: 'judge', apiKey: 'key', ...options })
const context = (step = 0) => ({ step, signal: new AbortController().signal })

test('its verdict is of the answers, whichever it reads first; which, depends on step and answers only', async () => {
  const compare = judge()
  for (let step = 0; step < 12; step++) expect(await compare(pairOf('short', 'much longer'), context(step))).toBe(1)
  const firsts = (): boolean[] => asked.map(({ content }) => content.indexOf('short') < content.indexOf('much longer'))
  const seen = firsts()
  expect(new Set(seen).size).toBe(2)
  asked = []
  for (let step = 0; step < 12; step++) await compare(pairOf('short', 'much longer'), context(step))
  expect(firsts()).toEqual(seen)
  expect(asked[0]).toMatchObject({ authorization: 'Bearer key', model: 'judge', maxTokens: 16 })
  expect(await judge({ order: 'given', maxTokens: 1 })(pairOf('much longer', 'short'), context())).toBe(0)
  expect(asked.at(-1)!.maxTokens).toBe(1)
})

test('asked in both orders, a judge that prefers a place gives no verdict', async () => {
  const compare = judge({ order: 'both' })
  expect(await compare(pairOf('short', 'much longer'), context())).toBe(1)
  expect(asked).toHaveLength(2)
  reply = () => '0'
  expect(await compare(pairOf('short', 'much longer'), context())).toBeNull()
  expect(await judge({ order: 'given' })(pairOf('short', 'much longer'), context())).toBe(0)
})

test.each<[string, 0 | 1 | null]>([['0', 0], [' "1"', 1], ['**1**', 1], ['1, as it is right', 1], ['10', null], ['Both are good', null], ['', null]])('the reply %j is %s', async (said, verdict) => {
  reply = () => said
  expect(await judge({ order: 'given' })(pairOf('a', 'b'), context())).toBe(verdict)
})

test('a busy server is asked again, and after maxRequests there are no verdicts', async () => {
  busy = 1
  const compare = judge({ maxRequests: 2, order: 'given' })
  expect(await compare(pairOf('a', 'bc'), context())).toBe(1)
  expect(asked).toHaveLength(2)
  expect(await compare(pairOf('a', 'bc'), context())).toBe(1)
  expect(await compare(pairOf('a', 'bc'), context())).toBeNull()
  expect(asked).toHaveLength(3)
})

test('as a reward the better one has 1 and the other 0; no verdict, a time-out and an error are none, and the latter two are counted', async () => {
  const score = async (options: Partial<PairwiseJudgeOptions> = {}) => {
    const { values, failed, errors } = await new RewardRunner([pairwiseReward(judge(options))], { timeout: 150 }).score(pairOf('short', 'much longer'))
    return [Array.from(values), failed[0], errors[0]]
  }
  expect(await score()).toEqual([[0, 1], 0, undefined])
  reply = () => 'Neither'
  expect(await score()).toEqual([[NaN, NaN], 0, undefined])
  reply = () => undefined
  expect(await score()).toEqual([[NaN, NaN], 2, 'took longer than 150 ms'])
  busy = 1
  expect(await score({ retries: 0 })).toEqual([[NaN, NaN], 2, expect.stringContaining('answered 503: later')])
})

test('a prompt of its own, and names that stand in an answer', () => {
  const instruction = judgeInstruction('Q: {prompt}\n{response0} or {response1}?')
  expect(instruction([sample('say {response1}', [{ role: 'user', content: 'go' }]), sample('b')])).toBe('Q: user: go\nsay {response1} or b?')
  expect(() => judgeInstruction('{prompt} {response0}')).toThrow('judgePrompt: expected a text with {prompt}, {response0} and {response1}, got one without {response1}')
})

test('mistakes end the run with a ConfigError', async () => {
  const score = (one: PairwiseJudge, samples: readonly RewardSample[]) => new RewardRunner([pairwiseReward(one)]).score(samples)
  const wrong = Object.defineProperty(() => 2 as never, 'name', { value: 'wrong' })
  await expect(score(wrong, pairOf('a', 'b'))).rejects.toThrow(ConfigError)
  await expect(score(wrong, pairOf('a', 'b'))).rejects.toThrow('judge wrong: expected 0 or 1, the number of the better answer, or null, got 2')
  await expect(score(judge(), [sample('a')])).rejects.toThrow('judge llmPairwiseJudge: expected 2 answers to a prompt, got 1')
  expect(() => llmPairwiseJudge({ url: 'judge.local', model: 'm' })).toThrow('llmPairwiseJudge: url: expected http://')
  expect(() => llmPairwiseJudge({ url: 'http://me:secret@host/v1', model: 'm' })).toThrow('expected a URL without a user name and password')
})
