// Proves the commands that learn from rewards or sample by them: dry runs, training, what is written, and how mistakes are told.
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { temporaryFolder } from '../files/helpers.ts'
import { makeModel, pairs, writeRows } from '../methods/support.ts'
import { anneal } from './run.ts'

const shared = mkdtempSync(join(tmpdir(), 'anneal-cli-'))
const [model, prompts, reward] = [join(shared, 'model'), join(shared, 'prompts.jsonl'), join(shared, 'reward.mjs')]
beforeAll(async () => {
  await makeModel(model)
  writeRows(prompts, pairs.slice(0, 8).map(({ prompt, completion }) => ({ prompt, answer: completion })))
  writeFileSync(reward, "export default function letters(samples) { return samples.map(({ completion, row }) => completion.length + row.answer.length / 100) }\n")
})
afterAll(() => { rmSync(shared, { recursive: true, force: true }) })

test('ppo checks in a dry run, and trains policy and value model', async () => {
  const cwd = temporaryFolder()
  const args = ['ppo', '--model', model, '--files', prompts, '--output-dir', 'out', '--reward', reward, '--response-length', '6', '--max-steps', '2', '--per-device-train-batch-size', '4']
  const dry = await anneal([...args, '--dry-run'], { cwd })
  expect(dry, dry.stderr).toMatchObject({ code: 0, stdout: expect.stringContaining('2 steps of 4 × 1 answers') as string })
  expect(existsSync(join(cwd, 'out'))).toBe(false)
  const trained = await anneal(args, { cwd })
  expect(trained, trained.stderr).toMatchObject({ code: 0, stdout: expect.stringContaining('done: out') as string })
  expect(readdirSync(join(cwd, 'out'))).toEqual(expect.arrayContaining(['config.json', 'model.safetensors', 'tokenizer.json', 'value_model']))
  const events = readFileSync(join(cwd, 'out', 'metrics.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as { type: string, metrics?: Record<string, number> })
  const logs = events.filter(({ type }) => type === 'log')
  expect(logs.length).toBeGreaterThan(0)
  for (const { metrics } of logs) expect(metrics!['reward/letters']).toBeGreaterThan(0)
})

test.each<[string[], string]>([
  [['--output-dir', 'out'], 'error: reward: nothing judges the answers; name a reward function'],
  [['--output-dir', 'out', '--reward', 'exactMach'], 'there is no reward function "exactMach"; did you mean "exactMatch"?'],
  [['--output-dir', 'out', '--reward', 'exactMatch', '--response-length', '500'], 'lower responseLength'],
])('ppo with %j says what is wrong', async (args, message) => {
  const { code, stderr } = await anneal(['ppo', '--model', model, '--files', prompts, ...args], { cwd: temporaryFolder() })
  expect(stderr).toContain(message)
  expect(code).toBe(1)
})

test('best-of-n writes the best answer to each prompt, and tells why prompts have none', async () => {
  const cwd = temporaryFolder()
  const args = ['best-of-n', '--model', model, '--files', prompts, '--output', 'best.jsonl', '--reward', reward, '--num-generations', '3', '--max-completion-length', '4', '--pass-at-k', '[1, 3]']
  const kept = await anneal([...args, '--keep-truncated'], { cwd })
  expect(kept, kept.stderr).toMatchObject({ code: 0, stdout: expect.stringMatching(/pass@3: 100\.0 %\n[\s\S]*8 rows of 8 prompts: best\.jsonl/) as string })
  const rows = readFileSync(join(cwd, 'best.jsonl'), 'utf8').trim().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>)
  expect(rows.map(({ prompt }) => prompt)).toEqual(pairs.slice(0, 8).map(({ prompt }) => prompt))
  for (const { completion, score, answer } of rows) expect(score).toBeCloseTo((completion as string).length + (answer as string).length / 100, 6)
  expect(readdirSync(cwd)).not.toContain('best.jsonl.progress')
  const none = await anneal(args, { cwd })
  expect(none, none.stderr).toMatchObject({ code: 0, stdout: expect.stringContaining('8 prompts have no answer that is kept; left out are answers cut off at --max-completion-length 4 (--keep-truncated keeps those)') as string })
})
