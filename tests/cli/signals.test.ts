// Proves that a signal ends a command soon, whatever it is doing, with one line that says what was cut off and what stays, and leaves nothing half written.
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { spawn, spawnSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readEvents } from '../../src/train/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { makeModel, pairs, sentences, writeRows } from '../methods/support.ts'
import { start } from './run.ts'

const tsx = import.meta.resolve('tsx')
const script = fileURLToPath(new URL('signalWhile.ts', import.meta.url))
const shared = mkdtempSync(join(tmpdir(), 'anneal-signals-'))
const [model, train, text, long] = ['model', 'train.jsonl', 'text.txt', 'long.jsonl'].map((name) => join(shared, name)) as [string, string, string, string]
beforeAll(async () => {
  await makeModel(model)
  writeRows(train, pairs)
  writeFileSync(text, sentences.join('\n'))
  // More than two shards.
  writeRows(long, Array.from({ length: 60 }, () => ({ text: sentences.join(' ').repeat(30) })))
})
afterAll(() => { rmSync(shared, { recursive: true, force: true }) })

/** Runs a command that gets signals in the middle of an activity. */
function signalWhile(activity: string, signals: string, args: readonly string[]): Promise<{ code: number | null, stderr: string, cwd: string, left: string[] }> {
  const cwd = temporaryFolder()
  const child = spawn(process.execPath, ['--import', tsx, script, activity, signals, ...args], { cwd, env: { ...process.env, NO_COLOR: '1', ANNEAL_CACHE: join(cwd, 'cache') }, stdio: ['ignore', 'ignore', 'pipe'] })
  let stderr = ''
  child.stderr.on('data', (piece: Buffer) => { stderr += piece.toString() })
  return new Promise((resolve) => { child.on('close', (code) => { resolve({ code, stderr, cwd, left: readdirSync(cwd, { recursive: true, encoding: 'utf8' }) }) }) })
}

const sft = ['sft', '--model', model, '--output-dir', 'out', '--max-length', '64', '--max-steps', '1000', '--learning-rate', '1e-3', '--per-device-train-batch-size', '4']
const half = (left: readonly string[]): string[] => left.filter((name) => /\.tmp-|\.old-|\.anneal\.lock/.test(name))

test.each<[activity: string, signal: string, args: string[], line: RegExp]>([
  ['loading the tokenizer', 'SIGINT', [...sft, '--files', train], /^Interrupted while loading the tokenizer .*model; nothing was trained\n$/],
  ['reading the data', 'SIGTERM', [...sft, '--files', train], /^Terminated while reading the data; nothing was trained\n$/],
  ['tokenizing; the cache keeps', 'SIGINT', [...sft, '--files', long, '--workers', '0'], /^Interrupted while tokenizing; the cache keeps the \d shards? that w\w+ written, and the same command goes on from there; nothing was trained\n$/],
  ['tokenizing', 'SIGTERM', [...sft, '--files', long, '--workers', '2'], /^Terminated while tokenizing; the cache (holds nothing of it yet|keeps .*); nothing was trained\n$/],
  ['loading the model', 'SIGINT', [...sft, '--files', train], /^Interrupted while loading the model .*model; nothing was trained\n$/],
  ['training the tokenizer', 'SIGINT', ['tokenizer', 'train', '--files', text, '--vocab-size', '300', '--output-dir', 'out'], /^Interrupted while training the tokenizer; nothing was written\n$/],
  ['writing', 'SIGINT', ['tokenizer', 'train', '--files', text, '--vocab-size', '300', '--output-dir', 'out'], /^Interrupted while writing out; nothing was written\n$/],
  ['quantising', 'SIGTERM', ['quantize', '--model', model, '--output', 'out', '--format', 'int8', '--method', 'gptq', '--calibration-files', text, '--calibration-length', '64'], /^Terminated while quantising the model; nothing was written\n$/],
  ['writing', 'SIGINT', ['export', '--model', model, '--output', 'out.gguf', '--pre-tokenizer', 'gpt-2'], /^Interrupted while writing out.gguf; nothing was written\n$/],
  ['measuring', 'SIGINT', ['eval', '--model', model, '--files', text], /^Interrupted while measuring the perplexity; nothing was written\n$/],
  ['generating', 'SIGINT', ['generate', '--model', model, '--prompt', 'the cat', '--max-new-tokens', '60'], /^Interrupted while generating; nothing was written\n$/],
])('%s, %s: %j', async (activity, signal, args, line) => {
  const { code, stderr, left } = await signalWhile(activity, signal, args)
  expect(stderr).toMatch(line)
  expect(code).toBe(signal === 'SIGINT' ? 130 : 143)
  expect(half(left)).toEqual([])
  expect(left.filter((name) => name.startsWith('out'))).toEqual([])
})

test.each([['SIGINT', 130, 'Interrupted'], ['SIGTERM', 143, 'Terminated']])('while the compiled command still loads its modules: %s', (name, exitCode, verb) => {
  const main = JSON.stringify(new URL('../../dist/cli/main.js', import.meta.url))
  // The handler stands before the program is loaded, which takes more than a turn of the event loop.
  const code = `
    process.argv.push('info')
    const look = () => { if (process.listenerCount('${name}') === 0) setImmediate(look); else process.kill(process.pid, '${name}') }
    look()
    await import(${main})
    await new Promise((resolve) => { setTimeout(resolve, 1000) })`
  const { status, signal, stderr, stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' })
  expect({ status, signal, stderr, stdout }).toEqual({ status: exitCode, signal: null, stderr: `${verb} while starting; nothing was written\n`, stdout: '' })
})

test('an evaluation stops after a batch, and what resumes begins with it', async () => {
  const { code, stderr, left, cwd } = await signalWhile('evaluating', 'SIGINT', [...sft, '--files', train, '--eval-files', train, '--eval-strategy', 'steps', '--eval-steps', '2', '--per-device-eval-batch-size', '1'])
  expect(stderr).toContain('SIGINT: finishing the batch of the evaluation and saving; once more to stop at once\n')
  expect(code).toBe(130)
  expect(half(left)).toEqual([])
  expect(left).toContain(join('out', 'checkpoint-2', 'trainer_state.json'))
  expect(readEvents(join(cwd, 'out', 'metrics.jsonl')).filter(({ type }) => type === 'evaluate')).toEqual([])
  expect(JSON.parse(readFileSync(join(cwd, 'out', 'checkpoint-2', 'trainer_state.json'), 'utf8'))).toMatchObject({ step: 2, evaluationDue: true, best: null })
})

test('a second signal does not wait for the step, and releases the lock', async () => {
  const { code, stderr, left } = await signalWhile('training', 'SIGINT+SIGINT', [...sft, '--files', train, '--gradient-accumulation-steps', '400'])
  expect(stderr).toContain('SIGINT: finishing the step and saving; once more to stop at once\n')
  expect(stderr).toContain('Interrupted while training; no checkpoint was saved yet\n')
  expect(code).toBe(130)
  expect(half(left)).toEqual([])
})

test('the compiled command, too, stops its threads in the middle of a shard', async () => {
  const cwd = temporaryFolder()
  const running = start([...sft, '--files', long, '--workers', '2'], { cwd })
  const begun = (): boolean => readdirSync(cwd, { recursive: true, encoding: 'utf8' }).some((name) => name.includes('tokenizer-'))
  while (!begun()) await new Promise((resolve) => { setTimeout(resolve, 5) })
  running.signal('SIGINT')
  const { code, stderr } = await running.ended
  expect(stderr).toMatch(/^Interrupted while (reading the data|tokenizing; .*); nothing was trained\n$/)
  expect(code).toBe(130)
  expect(half(readdirSync(cwd, { recursive: true, encoding: 'utf8' }))).toEqual([])
})
