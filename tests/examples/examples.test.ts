// Proves that each example runs, as a program of its own at its reduced size, and prints what it promises.
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { exampleFolder, runExample, startExample } from './setup.ts'

const limit = 300_000
let folder = ''
let remove = (): void => undefined
beforeAll(async () => { ({ folder, remove } = await exampleFolder()) }, limit)
afterAll(() => { remove() })
const run = (name: string, ...args: string[]): Promise<string> => runExample(folder, name, ...args)
/** Numbers that a pattern's groups find. */
const numbers = (text: string, pattern: RegExp): number[][] => [...text.matchAll(pattern)].map((match) => match.slice(1).map(Number))

test('adapters: both kinds train, and merged models answer as before', async () => {
  const printed = await run('adapters')
  const losses = numbers(printed, /held-out loss ([\d.]+) → ([\d.]+), right answers (\d+) %/g)
  const merged = numbers(printed, /merged into .*: right answers (\d+) %/g)
  expect(losses).toHaveLength(2)
  for (const [before, after] of losses) expect(after).not.toBe(before)
  expect(merged.map(([share]) => share)).toEqual(losses.map(([, , share]) => share))
}, limit)

test('bestOfN: more answers are right among more', async () => {
  const printed = await run('bestOfN')
  const [[one, two, four, eight]] = numbers(printed, /among k: 1: (\d+) %, 2: (\d+) %, 4: (\d+) %, 8: (\d+) %/g) as [number[]]
  expect([two! - one!, four! - two!, eight! - four!].every((gain) => gain >= 0)).toBe(true)
  expect(eight).toBeGreaterThan(one!)
  expect(printed).toMatch(/answered right: \d+ % → \d+ %/)
}, limit)

test('distill: students learn from labels and from a recorded teacher', async () => {
  const printed = await run('distill')
  const [[hard, soft]] = numbers(printed, /student of 2 layers: ([\d.]+) from hard labels, ([\d.]+) from the teacher/g) as [number[]]
  expect(printed).toMatch(/\d+ rows recorded/)
  expect(hard).not.toBe(soft)
}, limit)

test('dpo: pairs are told apart, and what that buys is measured', async () => {
  expect(numbers(await run('dpo'), /kind words: (\d+) %/g)).toHaveLength(2)
}, limit)

test('grpo-arithmetic: accuracy is measured before, while and after it learns', async () => {
  expect(await run('grpo-arithmetic', '3')).toMatch(/accuracy before: \d+ %[\s\S]*step 2: held-out accuracy \d+ %[\s\S]*after: \d+ %/)
}, limit)

test('environment: conversations are rewarded', async () => {
  expect(await run('environment')).toMatch(/before: \d+ %[\s\S]*step 2: right \d+ %, \d+ tokens a conversation[\s\S]*after: \d+ %/)
}, limit)

test('generate: recorded log-probabilities are those of teacher forcing', async () => {
  const printed = await run('generate')
  expect(printed).toContain('equal log-probabilities: true')
  expect(printed).toContain("role: 'assistant'")
}, limit)

test('packageConversations: describes the packages it finds', async () => {
  expect(await run('packageConversations', 'packages.jsonl', '20', join(import.meta.dirname, '../..'))).toMatch(/^20 conversations/)
}, limit)

test('pipeline: every stage is measured', async () => {
  const printed = await run('pipeline')
  for (const stage of ['pretraining', 'cold-start SFT', 'best of 8 by a reward model', 'GRPO', 'rejection-sampled SFT', 'GRPO again', 'student, from words', 'student, distilled', 'nf4', 'int8', 'GGUF q8_0', 'GGUF q4_0']) {
    expect(printed).toMatch(new RegExp(`│ ${stage}.*│ '\\d+ %'`))
  }
  expect(existsSync(join(folder, 'anneal-pipeline-1/reasoning-q4_0.gguf'))).toBe(true)
}, limit)

test('ppo: a reward model is trained, and a policy with it', async () => {
  const printed = await run('ppo')
  expect(printed).toMatch(/right about \d+ % of held-out pairs/)
  expect(numbers(printed, /step (\d+): reward (-?[\d.]+), KL (-?[\d.]+) nats/g).length).toBeGreaterThan(0)
  expect(printed).toMatch(/kind words after: \d+ %/)
}, limit)

test('preference: each method trains', async () => {
  const rows = numbers(await run('preference'), /^\w+ +loss ([\d.]+), right answers (\d+) % → (\d+) %/gm)
  expect(rows).toHaveLength(3)
  for (const [loss] of rows) expect(loss).toBeGreaterThan(0)
}, limit)

test('pretrain: the loss falls', async () => {
  const losses = numbers(await run('pretrain'), /held-out loss ([\d.]+)/g).flat()
  expect(losses.length).toBeGreaterThanOrEqual(2)
  expect(losses.at(-1)).toBeLessThan(losses[0]!)
}, limit)

test('quantize: fewer bits are fewer bytes', async () => {
  const rows = numbers(await run('quantize'), /^\S.*? ([\d.]+) MB, right answers (\d+) %/gm)
  expect(rows).toHaveLength(8)
  for (const [megabytes] of rows.slice(1)) expect(megabytes).toBeLessThan(rows[0]![0]!)
}, limit)

test('rewardModel: answers have scores', async () => {
  const printed = await run('rewardModel')
  expect(numbers(printed, /score: (-?[\d.e-]+)/g)).toHaveLength(3)
  expect(printed).toMatch(/better of two held-out answers: \d+ %/)
}, limit)

test('server: answers while it trains, and says how late it was', async () => {
  const child = startExample(folder, 'server', '0')
  try {
    const url = await new Promise<string>((resolve) => { child.stdout.on('data', (chunk: Buffer) => { resolve(/http\S+/.exec(chunk.toString())![0]) }) })
    const training = await fetch(`${url}/train`, { method: 'POST' })
    const events = training.body!.getReader()
    let heard = ''
    while (!heard.includes('"type":"log"')) heard += new TextDecoder().decode((await events.read()).value as Uint8Array)
    const status = await (await fetch(url)).json() as { busy: boolean, step: number, lagMilliseconds: { p99: number, max: number } }
    expect(status.busy).toBe(true)
    expect(status.step).toBeGreaterThan(0)
    expect(status.lagMilliseconds.max).toBeGreaterThanOrEqual(status.lagMilliseconds.p99)
    expect((await fetch(`${url}/train`, { method: 'POST' })).status).toBe(409)
    // Who goes away stops the run.
    await events.cancel()
    for (;;) if (!(await (await fetch(url)).json() as { busy: boolean }).busy) break
  } finally {
    child.kill()
  }
}, limit)

test('sft: tells the held-out loss of each epoch, which falls', async () => {
  const losses = numbers(await run('sft'), /^evaluate \d+ ([\d.]+)/gm).flat()
  expect(losses.length).toBe(2)
  expect(losses.at(-1)).toBeLessThan(losses[0]!)
}, limit)

test('tokenizer: three kinds, and text that comes back', async () => {
  const printed = await run('tokenizer')
  expect(numbers(printed, /^(?:bpe|unigram|wordpiece) +(\d+) tokens/gm)).toHaveLength(3)
  expect(printed).toContain('trained: "I did.<|im_end|>')
  expect(printed).toContain('exact: true')
}, limit)

test('toolReward: a call that hangs leaves its answer without a verdict, and the run goes on', async () => {
  const printed = await run('toolReward')
  expect(printed).toMatch(/without a verdict 1\b/)
  expect(printed).toMatch(/answered right: \d+ % → \d+ %/)
}, limit)

test('every example has a test', () => {
  const tested = ['adapters', 'bestOfN', 'distill', 'dpo', 'environment', 'generate', 'grpo-arithmetic', 'packageConversations', 'pipeline', 'ppo', 'preference', 'pretrain', 'quantize', 'rewardModel', 'server', 'sft', 'tokenizer', 'toolReward']
  expect(readdirSync(join(import.meta.dirname, '../../examples')).map((file) => file.replace(/\.ts$/, '')).filter((name) => !tested.includes(name) && name !== 'shared')).toEqual([])
})
