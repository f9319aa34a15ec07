// Proves the built-in rewards by hand-made cases and TRL's own numbers, and that calls are bounded, timed and checked.
import { createServer, type Server } from 'node:http'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ConfigError } from '../../src/errors.ts'
import {
  codeTests, cosineLength, exactMatch, jsonValid, lastNumber, llmJudge, loadRewards, numericMatch, regexMatch, repetitionPenalty, rewardEach, RewardRunner, runCodeTests, softOverlong, thinkFormat,
  type AnyRow, type RewardFunction, type RewardSample,
} from '../../src/rewards/index.ts'
import { importModule } from '../../src/rewards/importModule.ts'

const sample = (completion: string, row: AnyRow = {}, tokens = completion.length): RewardSample =>
  ({ prompt: 'p', completion, promptIds: Int32Array.of(1), completionIds: new Int32Array(tokens), finishReason: 'stop', row })
const context = { signal: new AbortController().signal, step: 0 }
const judge = async (reward: RewardFunction, ...samples: RewardSample[]) => [...await reward(samples, context)]

test('exact and numeric match', async () => {
  expect(await judge(exactMatch(), sample(' 42\n', { answer: '42' }), sample('43', { answer: 42 }), sample('x'))).toEqual([1, 0, null])
  expect(await judge(exactMatch({ answer: 'gold', extract: /<a>(.*?)<\/a>/, wrong: -1 }), sample('<a>1</a> no, <a>b</a>', { gold: 'b' }), sample('b', { gold: 'b' }))).toEqual([1, -1])
  expect(await judge(numericMatch(), sample('so it is 1,234.50', { answer: '#### 1234.5' }), sample('none', { answer: 3 }), sample('3', { answer: 'unknown' }))).toEqual([1, 0, null])
  expect(['3/4', '50%', 'about 50 % of it', '12,5\u00a0%', '-1e3', '.5', 'a 7 b 8.', '7 % 3', 'none'].map(lastNumber)).toEqual([0.75, 0.5, 0.5, 1.25, -1000, 0.5, 8, 3, undefined])
})

test("formats: TRL's think_format_reward", async () => {
  expect(await judge(thinkFormat(), ...['<think>a\nb</think>c', '<think>a</think>', 'a<think>b</think>', '<think>a<think>b</think>', '<think>a', ' <think>a</think>'].map((text) => sample(text)))).toEqual([1, 1, 0, 0, 0, 0])
  const pattern = regexMatch(/\d/g, { right: 2, wrong: -1 })
  expect(await judge(pattern, sample('1'), sample('2'), sample('x'))).toEqual([2, 2, -1])
})

test('repetition, overlong and cosine', async () => {
  const texts = ['a b c d', 'a b c a b c a b c', 'a b', '']
  // (1 - distinct / all) · penalty: 7 trigrams of which 3 are distinct.
  expect(await judge(repetitionPenalty(), ...texts.map((text) => sample(text)))).toEqual([-0, (1 - 3 / 7) * -1, 0, 0])
  // DAPO's equation 13.
  expect(await judge(softOverlong({ maxCompletionLength: 100, cacheTokens: 20 }), ...[80, 90, 100, 101].map((tokens) => sample('', {}, tokens)))).toEqual([0, -0.5, -1, -1])
  const cosine = cosineLength({ correctness: exactMatch(), maxLength: 100 })
  const scores = await judge(cosine, ...[0, 50, 100, 200].map((tokens) => sample('1', { answer: 1 }, tokens)), ...[0, 100].map((tokens) => sample('2', { answer: 1 }, tokens)), sample('2'))
  ;[1, 0.75, 0.5, 0.5, -1, -0.5].forEach((wanted, i) => { expect(scores[i]).toBeCloseTo(wanted, 12) })
  expect(scores[6]).toBeNull()
  expect(() => softOverlong({ maxCompletionLength: 10, cacheTokens: 20 })).toThrow('cacheTokens: expected a number above 0 and at most maxCompletionLength 10, got 20')
})

test('JSON and its schema', async () => {
  const schema = { type: 'object', properties: { n: { type: 'integer', minimum: 1 }, s: { type: ['string', 'null'], pattern: '^a' }, l: { type: 'array', items: { enum: [1, { x: 2, y: 3 }] }, maxItems: 2 } }, required: ['n'], additionalProperties: false }
  const good = ['{"n":1}', '{"n":2,"s":null,"l":[{"y":3,"x":2}]}', 'text\n```json\n{"n":3,"s":"ab"}\n```']
  const bad = ['{"n":0}', '{"n":1.5}', '{"s":"a"}', '{"n":1,"z":1}', '{"n":1,"s":"b"}', '{"n":1,"l":[1,1,1]}', '{"n":1,"l":[2]}', '[1]']
  expect(await judge(jsonValid({ schema, wrongShape: 0.25 }), ...[...good, ...bad, '{n:1}', ''].map((text) => sample(text)))).toEqual([...good.map(() => 1), ...bad.map(() => 0.25), 0, 0])
  expect(() => jsonValid({ schema: { properties: { a: { $ref: '#' } } } as never })).toThrow('schema.properties.a: the keyword "$ref" is not supported')
  expect(() => jsonValid({ schema: { type: 'int' } })).toThrow('schema.type: expected one of object')
})

describe('code', () => {
  test('gets the share of tests it passes', async () => {
    const tests = ['assert.equal(add(1, 2), 3)', 'assert.equal(add([], 1), [1])', 'await null; assert(add(0, 0) === 0)']
    const answers = ['function add(a, b) { return a + b }', '```js\nconst add = (a, b) => a - b\n```', 'syntax error(', 'throw new Error("x")'].map((text) => sample(text, { tests }))
    expect(await judge(codeTests(), ...answers)).toEqual([2 / 3, 1 / 3, 0, 0])
    expect(await judge(codeTests({ scoring: 'all', tests: () => ['assert(true)'] }), sample('1'))).toEqual([1])
    await expect(judge(codeTests(), sample('1', { tests: 'x' }))).rejects.toThrow('codeTests: the column "tests": expected a list')
  })

  test.each([
    ['an endless loop', 'for (;;) {}', /took longer than 300 ms/],
    ['a heap without end', 'const all = []; for (;;) all.push(new Array(1000).fill({}))', /needs more than 16 MB|took longer/],
    ['what Node has', 'process.exit(0)', /process is not defined/],
    ['modules', 'require("fs")', /require is not defined/],
    ['text made code', 'eval("1")', /Code generation/],
  ])('cannot have %s', async (_, code, message) => {
    const { passed, error } = await runCodeTests(code, ['assert(true)'], { timeLimit: 300, memoryLimit: 16 })
    expect(passed).toEqual([false])
    expect(error).toMatch(message)
  })

  test('does not see what another answer left behind', async () => {
    await runCodeTests('globalThis.left = 1; Array.prototype.map = 1', ['assert(left)'])
    expect(await runCodeTests('', ['assert(typeof left === "undefined" && typeof [].map === "function")'])).toEqual({ passed: [true] })
  })
})

describe('the runner', () => {
  test('holds the bound, and gives the table row by row', async () => {
    let [under, most] = [0, 0]
    const slow: RewardFunction = async (samples) => {
      most = Math.max(most, ++under)
      await new Promise((resolve) => setTimeout(resolve, 5))
      under--
      return samples.map(({ completion }) => completion.length)
    }
    const runner = new RewardRunner([slow, rewardEach('none', () => null), slow], { maxConcurrency: 3 })
    expect(runner.names).toEqual(['slow', 'none', 'slow#2'])
    const tables = await Promise.all(Array.from({ length: 6 }, () => runner.score([sample('a'), sample('bb')])))
    expect(Array.from(tables[5]!.values)).toEqual([1, NaN, 1, 2, NaN, 2])
    expect(most).toBe(3)
  })

  test('a call that throws or takes too long is null and counted; its signal is aborted', async () => {
    let aborted = false
    const runner = new RewardRunner([
      (_, { signal }) => new Promise((resolve) => { signal.addEventListener('abort', () => { aborted = true; resolve([1]) }) }),
      () => { throw new Error('no judge') }, rewardEach('good', () => 1),
    ], { timeout: 20 })
    const { values, failed, errors } = await runner.score([sample('a')])
    expect([Array.from(values), failed, errors]).toEqual([[NaN, NaN, 1], [1, 1, 0], ['took longer than 20 ms', 'no judge', undefined]])
    expect(aborted).toBe(true)
  })

  test.each<[string, unknown]>([
    ['expected 2 numbers, one for each sample, got 1', [1]], ['expected a finite number or null for sample 1, got NaN', [1, NaN]], ['expected a finite number or null for sample 0, got "1"', ['1', 1]],
    ['expected a list of 2 numbers, one for each sample, got 3', 3], ['expected a list of 2 numbers, one for each sample, got undefined', undefined], ['expected a finite number or null for sample 0, got Infinity', [Infinity, 1]],
  ])('%s', async (message, values) => {
    const wrong = Object.defineProperty(() => values as number[], 'name', { value: 'wrong' })
    const failure = new RewardRunner([wrong]).score([sample('a'), sample('b')])
    await expect(failure).rejects.toThrow(ConfigError)
    await expect(failure).rejects.toThrow(`reward function wrong: ${message}`)
  })
})

describe('a judge over HTTP', () => {
  let server: Server
  let url: string
  let requests: { authorization: string | undefined, body: { messages: { content: string }[] } }[] = []
  let busy = 1
  beforeAll(async () => {
    server = createServer((request, response) => {
      let text = ''
      request.on('data', (part: Buffer) => { text += part.toString() })
      request.on('end', () => {
        const body = JSON.parse(text) as { messages: { content: string }[] }
        requests.push({ authorization: request.headers.authorization, body })
        const { content } = body.messages[0]!
        if (content === 'busy' && busy-- > 0) { response.writeHead(503).end('later'); return }
        if (content === 'gone') { response.writeHead(404).end('no such model'); return }
        response.end(JSON.stringify({ choices: [{ message: { content: content === 'mute' ? 'I cannot say' : content === 'wild' ? '99' : 'Score: 7' } }] }))
      })
    })
    await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`
  })
  afterAll(() => { server.close() })

  test('gives the number in its reply, null where there is none or out of range, and tries again where the server is busy', async () => {
    requests = []
    const reward = llmJudge({ url, model: 'judge', apiKey: 'key', instruction: ({ completion }) => completion })
    expect(await judge(reward, sample('fine'), sample('mute'), sample('wild'), sample('busy'))).toEqual([7, null, null, 7])
    expect(requests).toHaveLength(5)
    expect(requests[0]!.authorization).toBe('Bearer key')
    const { failed, errors } = await new RewardRunner([reward]).score([sample('gone')])
    expect([failed, errors[0]]).toEqual([[1], `${url}chat/completions answered 404: no such model`])
    expect(() => llmJudge({ url: 'judge.local', model: 'm', instruction: () => '' })).toThrow('url: expected http://')
  })
})

describe('reward modules', () => {
  let folder: string
  beforeAll(() => { folder = mkdtempSync(join(tmpdir(), 'anneal-')) })
  afterAll(() => { rmSync(folder, { recursive: true, force: true }) })
  const module = (name: string, text: string): string => {
    const path = join(folder, name)
    writeFileSync(path, text)
    return path
  }

  test('TypeScript and JavaScript run directly, one function or a list; names stand for built-in rewards', async () => {
    const typescript = module('reward.ts', 'type Row = { n: number }\nexport default function double(samples: readonly { row: Row }[]): number[] { return samples.map(({ row }) => 2 * row.n) }\n')
    const javascript = module('rewards.mjs', 'export default [function a() { return [1] }, function b() { return [2] }]\n')
    const rewards = await loadRewards([typescript, javascript, 'numericMatch'])
    expect(rewards.map(({ name }) => name)).toEqual(['double', 'a', 'b', 'numericMatch'])
    expect(await judge(rewards[0]!, sample('', { n: 4 }))).toEqual([8])
  })

  test('where Node.js does not run TypeScript, tsx does, imports of further TypeScript included; without it the fix is named', async () => {
    module('weights.ts', 'export const factor: number = 3\n')
    const file = module('typed.ts', "import { factor } from './weights.ts'\nenum Kind { Good = 2 }\nexport default function typed(samples: readonly unknown[]): number[] { return samples.map(() => factor * Kind.Good) }\n")
    const loaded = await importModule(file, './typed.ts', { stripsTypes: false }) as { default: RewardFunction | { default: RewardFunction } }
    const reward = 'default' in loaded.default ? loaded.default.default : loaded.default
    expect(await judge(reward, sample('', {}))).toEqual([6])
    const failure = importModule(file, './typed.ts', { stripsTypes: false, tsx: () => Promise.resolve(undefined) })
    await expect(failure).rejects.toThrow(ConfigError)
    await expect(failure).rejects.toThrow(/reward: \.\/typed\.ts: this Node\.js \(v.*\) does not run TypeScript by itself.*run npm install tsx, use Node\.js 22\.18 or newer, or give a \.js module/)
  })

  test.each<[string, () => string]>([
    ['there is no such file', () => join(folder, 'missing.ts')],
    ['expected a default export that is a reward function or a list of them, got none', () => module('none.mjs', 'export const a = 1\n')],
    ['got number', () => module('number.mjs', 'export default 3\n')],
    ['the module cannot be loaded', () => module('broken.mjs', 'throw new Error("x")\n')],
    ['there is no reward function "numericMach"; did you mean "numericMatch"?', () => 'numericMach'],
  ])('%s', async (message, path) => {
    const failure = loadRewards(path())
    await expect(failure).rejects.toThrow(ConfigError)
    await expect(failure).rejects.toThrow(message)
  })
})
