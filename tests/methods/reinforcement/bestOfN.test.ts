// Proves the numbers of best-of-n, which answers are kept, that the file is one that sft() reads, and that a stopped run ends with the same file.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { ConfigError } from '../../../src/errors.ts'
import { sft } from '../../../src/methods/index.ts'
import { bestOfN, type BestOfNInput } from '../../../src/methods/reinforcement/bestOfN/bestOfN.ts'
import { bestOfNKl, passAtK, selectCandidates } from '../../../src/methods/reinforcement/bestOfN/selection.ts'
import { rewardEach } from '../../../src/rewards/index.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { makeModel } from '../support.ts'

describe('numbers', () => {
  test('pass@k is the share of choices of k samples with a right one', () => {
    const choose = (n: number, k: number): number => (k === 0 ? 1 : k > n ? 0 : choose(n - 1, k - 1) + choose(n - 1, k))
    for (let n = 1; n <= 8; n++) for (let c = 0; c <= n; c++) for (let k = 1; k <= n; k++) expect(passAtK(n, c, k)).toBeCloseTo(1 - choose(n - c, k) / choose(n, k), 12)
    expect(() => passAtK(4, 2, 5)).toThrow(ConfigError)
  })

  test('the KL of the best of n', () => {
    expect(bestOfNKl(1)).toBe(0)
    expect(bestOfNKl(4)).toBeCloseTo(Math.log(4) - 0.75, 12)
    expect(() => bestOfNKl(0)).toThrow('n: expected a whole number from 1')
  })

  test('the first of the highest score; all from a threshold; equal texts once; unjudged ones never', () => {
    const candidates = [{ text: 'a', score: 1 }, { text: 'b', score: 2 }, { text: 'c', score: 2 }, { text: 'b', score: 2 }, { text: 'd', score: null }]
    expect(selectCandidates(candidates, { select: 'best', dedupe: true })).toEqual([1])
    expect(selectCandidates(candidates, { select: 'best', threshold: 3, dedupe: true })).toEqual([])
    expect(selectCandidates(candidates, { select: 'threshold', threshold: 2, dedupe: true })).toEqual([1, 2])
    expect(selectCandidates(candidates, { select: 'threshold', threshold: 2, dedupe: false })).toEqual([1, 2, 3])
    expect(selectCandidates([], { select: 'best', dedupe: true })).toEqual([])
  })
})

interface Row { prompt: string; id: number }
const rows: Row[] = ['the cat', 'a dog', 'my friend', 'the old king', 'one bird'].map((prompt, id) => ({ prompt, id }))
const letters = rewardEach<Row>('letters', ({ completion }) => completion.match(/e/g)?.length ?? 0)

async function options(more: Partial<BestOfNInput<Row>> = {}, folder = temporaryFolder()): Promise<BestOfNInput<Row>> {
  if (!existsSync(join(folder, 'model'))) await makeModel(join(folder, 'model'))
  return { model: join(folder, 'model'), rows, rewards: [letters], output: join(folder, 'kept.jsonl'), numGenerations: 4, maxCompletionLength: 12, keepTruncated: true, promptsPerBatch: 2, ...more }
}
const read = (path: string): (Row & { completion: string; score: number })[] => readFileSync(path, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as Row & { completion: string; score: number })

describe('bestOfN', () => {
  test('writes the best answer to each prompt, with its columns, for sft()', async () => {
    const args = await options({ passAtK: [1, 4], correctFrom: 1 })
    const result = await bestOfN(args)
    const kept = read(args.output)
    expect(kept.map(({ id }) => id)).toEqual([0, 1, 2, 3, 4])
    for (const { completion, score } of kept) expect(score).toBe(completion.match(/e/g)?.length ?? 0)
    expect(result).toMatchObject({ finished: true, prompts: 5, kept: 5, withoutAnswer: 0, rewardErrors: [], klBound: bestOfNKl(4) })
    expect(result.meanBestScore).toBeCloseTo(kept.reduce((sum, { score }) => sum + score, 0) / 5, 12)
    expect(result.meanBestScore).toBeGreaterThan(result.meanScore)
    expect(result.passAtK[4]).toBe(kept.filter(({ score }) => score >= 1).length / 5)
    expect(existsSync(`${args.output}.progress`)).toBe(false)
    const run = await sft({ model: args.model, files: args.output, outputDir: join(args.model, 'out'), maxSteps: 1, cacheDir: false, reportTo: [], saveStrategy: 'no' })
    expect(run.data.stats.rows).toBe(5)
    run.dispose()
    run.model.dispose()
  })

  test('answers that a reward function fails on are none, and the result says what went wrong', async () => {
    const some = rewardEach<Row>('some', ({ row, completion }) => {
      if (row.id % 2 === 1) throw new Error('no judge')
      return completion.length
    })
    const args = await options({ rewards: [some] })
    const result = await bestOfN(args)
    expect(result).toMatchObject({ finished: true, kept: 3, withoutAnswer: 2, rewardErrors: ['reward function some: no judge'] })
    expect(read(args.output).map(({ id }) => id)).toEqual([0, 2, 4])
  })

  test('stopped and resumed, with other batches, it ends with the same file', async () => {
    const folder = temporaryFolder()
    const whole = await options({ output: join(folder, 'whole.jsonl') }, folder)
    await bestOfN(whole)
    const controller = new AbortController()
    const first = await options({ signal: controller.signal, onProgress: () => { controller.abort() } }, folder)
    expect(await bestOfN(first)).toMatchObject({ finished: false, prompts: 2 })
    expect(existsSync(first.output)).toBe(false)
    await expect(bestOfN(await options({ temperature: 0.5 }, folder))).rejects.toThrow('it is of a run with other options')
    const calls: number[] = []
    const rest = await options({ promptsPerBatch: 1, onProgress: (done) => { calls.push(done) } }, folder)
    expect(await bestOfN(rest)).toMatchObject({ finished: true, prompts: 5 })
    expect(calls).toEqual([3, 4, 5])
    expect(readFileSync(rest.output, 'utf8')).toBe(readFileSync(whole.output, 'utf8'))
  })

  test('conversations with an environment are written as messages', async () => {
    const args = await options({
      rewards: [], maxCompletionLength: 20,
      environment: () => ({ reset: ({ prompt }) => [{ role: 'user', content: prompt }], step: (text) => ({ done: true, reward: text.length }) }),
    })
    await bestOfN(args)
    const [row] = readFileSync(args.output, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as { messages: { role: string }[] })
      .slice(0, 1)
    expect(row!.messages.map(({ role }) => role)).toEqual(['user', 'assistant'])
  })

  test.each<[string, Partial<BestOfNInput<Row>>]>([
    ['nothing judges the answers', { rewards: [] }], ['threshold: select', { select: 'threshold' }], ['passAtK: expected at most numGenerations', { passAtK: [5] }], ['rewardWeights: expected 1', { rewardWeights: [] }],
  ])('says "%s"', async (message, more) => { await expect(bestOfN(await options(more))).rejects.toThrow(message) })
})
