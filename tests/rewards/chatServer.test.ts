// Proves that a judging server which is busy, slow, broken or gone is asked again within a bound, and that what it then still has not said is null for that answer alone, and counted.
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import { cosineLength, llmJudge, llmPairwiseJudge, nameReward, pairwiseReward, rewardEach, RewardRunner, type JudgeOptions, type RewardFunction } from '../../src/rewards/index.ts'
import { retryAfter } from '../../src/rewards/retries.ts'
import { answerOf, chatServer, type ChatServer } from './support.ts'

let server: ChatServer
/** What becomes of the first requests, each of which ends its response or never does; those after are answered with 7. */
let first: ((response: Parameters<ChatServer['reply']>[1]) => void)[] = []
beforeAll(async () => {
  server = await chatServer()
  server.reply = (_, response) => {
    const next = first.shift()
    if (!next) return '7'
    next(response)
    return undefined
  }
})
afterAll(() => { server.close() })
beforeEach(() => { [server.asked, first] = [[], []] })
const judge = (options: Partial<JudgeOptions> = {}) => llmJudge({ url: server.url, model: 'judge', instruction: ({ completion }) => completion, ...options })
const score = async (reward: RewardFunction, completions: readonly string[], timeout = 5000) => {
  const { values, failed, errors } = await new RewardRunner([reward], { timeout }).score(completions.map((text) => answerOf(text)))
  return { values: Array.from(values), failed: failed[0], error: errors[0] }
}

describe('asked again, and answered', () => {
  test.each<[string, (typeof first)[number], Partial<JudgeOptions>?]>([
    ['429 with Retry-After', (response) => response.writeHead(429, { 'retry-after': '0' }).end('slow down')],
    ['408', (response) => response.writeHead(408, { 'retry-after': '0' }).end()],
    ['500', (response) => response.writeHead(500).end('oops')],
    ['503 until a time that has been', (response) => response.writeHead(503, { 'retry-after': 'Wed, 21 Oct 2015 07:28:00 GMT' }).end()],
    ['what is no JSON', (response) => response.end('<html>a proxy</html>')],
    ['JSON cut short', (response) => response.end('{"choices": [{"mess')],
    ['no choices', (response) => response.end('{"choices": []}')],
    ['an error with status 200', (response) => response.end('{"error": {"message": "overloaded"}}')],
    ['a connection that breaks', (response) => { response.destroy() }],
    ['one that breaks amid the reply', (response) => { response.writeHead(200, { 'content-length': '1000' }).write('{"choices"'); setTimeout(() => { response.destroy() }, 20) }],
    ['no answer in time', () => undefined, { timeout: 100 }],
  ])('%s', async (_, failure, options = {}) => {
    first = [failure]
    expect(await score(judge(options), ['a'])).toEqual({ values: [7], failed: 0, error: undefined })
    expect(server.asked).toHaveLength(2)
  })
})

test.each<[string, (typeof first)[number], string, number]>([
  ['429', (response) => response.writeHead(429, { 'retry-after': '0' }).end('slow down'), 'answered 429: slow down', 3],
  ['502', (response) => response.writeHead(502, { 'retry-after': '0' }).end('bad gateway'), 'answered 502: bad gateway', 3],
  ['what is no JSON', (response) => response.end('<html>'), 'expected a chat completion, got "<html>"', 3],
  ['no answer in time', () => undefined, 'took longer than 60 ms', 3],
  ['a broken connection', (response) => { response.destroy() }, 'did not answer: UND_ERR_SOCKET', 3],
  ['400, which another try does not mend', (response) => response.writeHead(400).end('no such model'), 'answered 400: no such model', 1],
  ['a wish for a wait of an hour', (response) => response.writeHead(429, { 'retry-after': '3600' }).end('tomorrow'), 'answered 429: tomorrow', 1],
])('%s for good leaves that answer alone without a reward', async (_, failure, message, tries) => {
  const fails = (content: string) => content === 'bad'
  const before = server.reply
  server.reply = ({ content }, response) => {
    if (!fails(content)) return '7'
    failure(response)
    return undefined
  }
  try {
    const { values, failed, error } = await score(judge({ timeout: 60 }), ['good', 'bad', 'good'])
    expect([values, failed]).toEqual([[7, NaN, 7], 1])
    expect(error).toContain(`${server.url}chat/completions`)
    expect(error).toContain(message)
    expect(server.asked.filter(({ content }) => fails(content))).toHaveLength(tries)
  } finally {
    server.reply = before
  }
}, 10_000)

test('a server that is not there', async () => {
  const gone = await chatServer()
  gone.close()
  expect(await score(judge({ url: gone.url, retries: 1 }), ['a', 'b'])).toEqual({ values: [NaN, NaN], failed: 2, error: `${gone.url}chat/completions did not answer: ECONNREFUSED` })
})

test('no content is a reply without a verdict, and no failure', async () => {
  first = [(response) => response.end('{"choices": [{"message": {"content": null, "refusal": "no"}}]}'), (response) => response.end('{"choices": [{"message": {}}]}')]
  expect(await score(judge(), ['a', 'b', 'c'])).toEqual({ values: [NaN, NaN, 7], failed: 0, error: undefined })
})

test('Retry-After is waited for, and the end of the call ends the wait', async () => {
  const wait = (seconds: number) => (response: Parameters<ChatServer['reply']>[1]) => response.writeHead(429, { 'retry-after': String(seconds) }).end('later')
  first = [wait(1)]
  let begin = performance.now()
  expect(await score(judge(), ['a'])).toMatchObject({ values: [7], failed: 0 })
  expect(performance.now() - begin).toBeGreaterThan(990)
  first = [wait(30)]
  begin = performance.now()
  expect(await score(judge(), ['a', 'b'], 300)).toEqual({ values: [NaN, 7], failed: 1, error: 'took longer than 300 ms' })
  expect(performance.now() - begin).toBeLessThan(10_000)
  const now = Date.parse('2026-01-01T00:00:00Z')
  expect(['3', '', ' 0 ', null, 'soon', 'Thu, 01 Jan 2026 00:00:05 GMT', 'Thu, 01 Jan 2015 00:00:05 GMT'].map((text) => retryAfter(text, now))).toEqual([3000, undefined, 0, undefined, undefined, 5000, 0])
})

test('a pair whose judge cannot be had counts for both of its answers', async () => {
  first = Array.from({ length: 3 }, () => (response) => response.writeHead(503, { 'retry-after': '0' }).end('later'))
  expect(await score(pairwiseReward(llmPairwiseJudge({ url: server.url, model: 'judge' })), ['a', 'b'])).toEqual({ values: [NaN, NaN], failed: 2, error: `${server.url}chat/completions answered 503: later` })
})

describe('rewards of single answers', () => {
  const some = rewardEach('some', async ({ completion }, { signal }) => {
    if (completion === 'bad') throw new Error('no')
    if (completion === 'slow') await new Promise((resolve) => { signal.addEventListener('abort', resolve, { once: true }) })
    if (completion === 'deaf') await new Promise(() => undefined)
    return completion.length
  })

  test('errors and those that are not done in time are counted one by one; the rest is kept, by wrappers too', async () => {
    expect(await score(some, ['a', 'bad', 'bb', 'bad'])).toEqual({ values: [1, NaN, 2, NaN], failed: 2, error: 'no' })
    expect(await score(nameReward('other', some), ['deaf', 'a', 'slow'], 60)).toEqual({ values: [NaN, 1, NaN], failed: 2, error: 'took longer than 60 ms' })
    expect(await score(cosineLength({ correctness: some, maxLength: 1 }), ['a', 'bad'])).toEqual({ values: [0.5, NaN], failed: 1, error: 'no' })
    expect(await score(some, ['bad', 'bad'])).toEqual({ values: [NaN, NaN], failed: 2, error: 'no' })
    const warnings: Error[] = []
    const warn = (warning: Error): void => { warnings.push(warning) }
    process.on('warning', warn)
    expect((await score(some, [...Array.from({ length: 40 }, () => 'slow'), 'a'], 60)).failed).toBe(40)
    await sleep(5)
    process.off('warning', warn)
    expect(warnings, 'many listeners are no leak').toEqual([])
  })

  test('called without a runner they reject', async () => {
    await expect(some([answerOf('a'), answerOf('bad')], { signal: new AbortController().signal, step: 0 })).rejects.toThrow('no')
  })
})

test.each<[string, Partial<JudgeOptions>]>([
  ['llmJudge: retries: expected a whole number from 0, got -1', { retries: -1 }], ['llmJudge: timeout: expected a whole number of milliseconds from 1, or null, got 0.5', { timeout: 0.5 }],
])('%s', (message, options) => {
  expect(() => judge(options)).toThrow(ConfigError)
  expect(() => judge(options)).toThrow(message)
})
