// Proves that a judging model is asked what TRL's judges ask, and that the same replies give the same verdicts, whichever answer was read first.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { judgeInstruction, llmPairwiseJudge, type AnswerPair, type PairwiseJudgeOptions } from '../../src/rewards/index.ts'
import { answerOf, chatServer, type ChatServer } from './support.ts'

interface Row { swapped: boolean, content: string, reply: string, rank: number }
interface Recorded {
  template: string, prompts: string[], pairs: [string, string][], bodies: Record<'openai' | 'hf', Record<string, unknown>>, path: string[]
  runs: { judge: string, rule: string, shuffled: boolean, rows: Row[] }[]
  replies: { reply: string | null, ranks: Record<string, number> }[]
  limit: { ranks: number[], asked: number }[]
}
const trl = JSON.parse(readFileSync(join(import.meta.dirname, '../recorded/judges/trl.json'), 'utf8')) as Recorded
const pairs = trl.pairs.map(([first, second], i): AnswerPair => [answerOf(first, { prompt: trl.prompts[i]! }), answerOf(second, { prompt: trl.prompts[i]! })])
/** TRL's numbers: -1, or 2 where it turns a -1 around, are no verdict. */
const verdictOf = (rank: number): 0 | 1 | null => (rank === 0 || rank === 1 ? rank : null)

let server: ChatServer
beforeAll(async () => { server = await chatServer() })
afterAll(() => { server.close() })
beforeEach(() => { server.asked = [] })
const judge = (options: Partial<PairwiseJudgeOptions> = {}) => llmPairwiseJudge({ url: server.url, model: 'judge', instruction: judgeInstruction(trl.template), maxTokens: 1, ...options })
const context = (step = 0) => ({ step, signal: new AbortController().signal })

test("what is sent is what TRL's judges send, and temperature 0", async () => {
  await judge({ order: 'given' })(pairs[0]!, context())
  const [{ path, body }] = server.asked as [ChatServer['asked'][0]]
  expect(body).toEqual({ ...trl.bodies.openai, temperature: 0 })
  // huggingface_hub calls the model at a URL so.
  expect({ ...body, model: 'dummy', stream: false }).toEqual({ ...trl.bodies.hf, temperature: 0 })
  expect(path.replace('//', '/')).toBe(trl.path[0])
})

describe.each(trl.runs.map((run, i) => [`${run.judge}, ${run.rule}, ${run.shuffled ? 'shuffled' : 'in order'}, run ${i}`, run] as const))('%s', (_, { shuffled, rows }) => {
  test('the same texts and replies give the same verdicts', async () => {
    const replies = new Map(rows.map(({ content, reply }) => [content, reply]))
    // Not what TRL read: the coin fell otherwise.
    server.reply = ({ content }) => replies.get(content) ?? 'x'
    const compare = judge({ order: shuffled ? 'random' : 'given' })
    for (const [i, { content, rank, swapped }] of rows.entries()) {
      let verdict: 0 | 1 | null = null
      // TRL draws which is read first; here it depends on the step.
      for (let step = 0; step < 64; step++) {
        verdict = await compare(pairs[i]!, context(step))
        if (server.asked.at(-1)!.content === content) break
      }
      expect(server.asked.at(-1)!.content, 'what it reads').toBe(content)
      expect([verdict, swapped && shuffled], `pair ${i}`).toEqual([verdictOf(rank), swapped])
    }
  })
})

test("asked in both orders, the verdict is the one that TRL's judge has in either, and null where they differ", async () => {
  let both = 0
  for (const rule of ['longer', 'first', 'second', 'mute']) {
    const rows = trl.runs.filter((run) => run.rule === rule).flatMap((run) => run.rows.map((row, i) => ({ ...row, i })))
    const replies = new Map(rows.map(({ content, reply }) => [content, reply]))
    server.reply = ({ content }) => replies.get(content) ?? 'x'
    for (const [i, pair] of pairs.entries()) {
      const ranks = [false, true].map((swapped) => rows.find((row) => row.i === i && row.swapped === swapped)?.rank)
      if (ranks[1] === undefined) continue
      both++
      expect(await judge({ order: 'both' })(pair, context()), `${rule}, pair ${i}`).toBe(ranks[0] === ranks[1] ? verdictOf(ranks[0]) : null)
    }
  }
  expect(both).toBeGreaterThanOrEqual(12)
})

/** Replies that TRL does not take, and this does: what models say that have more than one token for it. */
const lenient = new Map([[' 0', 0], ['1 ', 1], ['1\n', 1], ['0.', 0], ['"1"', 1]])
test.each(trl.replies.map(({ reply, ranks }) => [reply, ranks] as const))('the reply %j is read as by TRL, or with more patience', async (reply, ranks) => {
  server.reply = () => reply
  const verdict = verdictOf(ranks['openai']!)
  expect(ranks['hf']).toBe(ranks['openai'])
  expect(await judge({ order: 'given' })(pairs[0]!, context())).toBe(verdict ?? lenient.get(reply ?? '') ?? null)
  const exact = (text: string): 0 | 1 | null => (text === '0' ? 0 : text === '1' ? 1 : null)
  expect(await judge({ order: 'given', read: exact })(pairs[0]!, context())).toBe(verdict)
})

test('the limit of requests is kept to the request, where TRL looks between batches', async () => {
  server.reply = () => '0'
  const compare = judge({ order: 'given', maxRequests: 3 })
  const verdicts: (0 | 1 | null)[] = []
  for (const { ranks } of trl.limit) for (const i of ranks.keys()) verdicts.push(await compare(pairs[i]!, context()))
  expect(trl.limit.flatMap(({ ranks }) => ranks)).toEqual([0, 0, 0, 0, -1, -1])
  expect(trl.limit.at(-1)!.asked).toBe(4)
  expect(verdicts).toEqual([0, 0, 0, null, null, null])
  expect(server.asked).toHaveLength(3)
  // A pair of requests of which one is left is not asked at all.
  const twice = judge({ order: 'both', maxRequests: 3 })
  for (let i = 0; i < 3; i++) await twice(pairs[i]!, context())
  expect(server.asked).toHaveLength(3 + 2)
})
