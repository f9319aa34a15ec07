// Proves the commands from outside: help, exit codes, dry runs, training that is interrupted and resumed, and what they print.
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { temporaryFolder } from '../files/helpers.ts'
import { makeModel, pairs, sentences, writeRows } from '../methods/support.ts'
import { anneal, start } from './run.ts'

/** A model, training data and held-out text, which no test changes. */
const shared = mkdtempSync(join(tmpdir(), 'anneal-cli-'))
const [model, train, held] = [join(shared, 'model'), join(shared, 'train.jsonl'), join(shared, 'held.txt')]
beforeAll(async () => {
  await makeModel(model)
  writeRows(train, pairs)
  writeFileSync(held, sentences.slice(0, 20).join('\n'))
})
afterAll(() => { rmSync(shared, { recursive: true, force: true }) })

const inFolder = (...args: string[]) => anneal(args, { cwd: temporaryFolder() })

describe('help and mistakes', () => {
  test.each([
    [[], ['quickstart', 'info', 'tokenizer', 'pretrain', 'sft', 'generate', 'chat', 'eval', 'inspect']], [['sft'], ['--learning-rate <number>', '--assistant-only-loss', '--dry-run', '--set', 'default: 0.00002']],
    [['pretrain'], ['--model-config', '--packing', '--dry-run']], [['tokenizer', 'train'], ['--vocab-size', 'bpe|wordpiece|unigram']], [['generate'], ['--prompt', '--temperature', '--json']],
    [['chat'], ['--system']], [['eval'], ['--stride']], [['inspect'], ['--rows']], [['info'], ['--json']], [['quickstart'], ['--steps']],
  ])('anneal %j --help', async (command, words) => {
    const { code, stdout } = await inFolder(...command, '--help')
    expect(code).toBe(0)
    for (const word of words) expect(stdout).toContain(word)
  })

  test.each<[string[], string]>([
    [['sft', '--learning-rat', '1'], "unknown option '--learning-rat'\n(Did you mean --learning-rate?)"],
    [['generat'], 'unknown command "generat"; did you mean "generate"?'],
    [['sft', '--output-dir', 'o'], 'error: model: '],
    [['sft', '--model', 'none', '--output-dir', 'o', '--files', 'x.jsonl'], 'none/config.json'],
    [['generate', '--model', 'none', '--prompt', 'x'], 'none'],
    [['eval', '--model', 'none', '--files', 'x'], 'none'],
    [['tokenizer', 'train', '--files', '*.none', '--output-dir', 'o'], 'error: files: no file matches *.none'],
  ])('anneal %j exits with 1 and says why', async (args, message) => {
    const { code, stderr } = await inFolder(...args)
    expect(stderr).toContain(message)
    expect(stderr).not.toContain('defect')
    expect(code).toBe(1)
  })

  test('a mistake in a YAML file is told with its line', async () => {
    const cwd = temporaryFolder()
    writeFileSync(join(cwd, 'config.yaml'), 'model: m\noutput_dir: o\nlearningRate: fast\nbatch: 3\n')
    const { code, stderr } = await anneal(['sft', 'config.yaml'], { cwd })
    expect(code).toBe(1)
    expect(stderr).toContain('config.yaml:3:15: learningRate: expected number')
    expect(stderr).toContain('config.yaml:4:1: batch: unknown option')
  })

  test('a prompt that is longer than the context is refused', async () => {
    const { code, stderr } = await inFolder('generate', '--model', model, '--prompt', 'the cat sees the moon. '.repeat(60))
    expect(code).toBe(1)
    expect(stderr).toMatch(/^error: .*(96|context|positions)/)
  })
})

test('info --json', async () => {
  const { code, stdout } = await inFolder('info', '--json')
  expect(code).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject({ node: process.version, device: 'cpu', models: expect.arrayContaining(['gpt2', 'llama', 'qwen2', 'qwen3', 'mistral']) as string[] })
})

test('tokenizer train, then inspect', async () => {
  const cwd = temporaryFolder()
  writeFileSync(join(cwd, 'a.txt'), sentences.join('\n'))
  const trained = await anneal(['tokenizer', 'train', '--files', '*.txt', '--vocab-size', '300', '--output-dir', 'tok'], { cwd })
  expect(trained).toMatchObject({ code: 0, stdout: expect.stringMatching(/^300 tokens from 1 files/) as string })
  const shown = await anneal(['inspect', '--tokenizer', 'tok', '--files', train, '--rows', '2'], { cwd })
  expect(shown.code).toBe(0)
  expect(shown.stdout).toContain('25 rows')
  expect(shown.stdout).toMatch(/the cat sees\[\[ the moon\..*\]\]/)
})

test('a dry run checks everything, tells the memory and writes nothing', async () => {
  const cwd = temporaryFolder()
  const { code, stdout } = await anneal(['sft', '--model', model, '--files', train, '--output-dir', 'out', '--dry-run', '--max-length', '64'], { cwd })
  expect(code).toBe(0)
  expect(stdout).toMatch(/LlamaForCausalLM/)
  expect(stdout).toMatch(/memory: [\d.]+ \w+ = weights .* gradients .* optimizer .* activations/)
  expect(readdirSync(cwd)).not.toContain('out')
})

test('a dry run counts quantised layers and head as what they are', async () => {
  const weights = async (...quantize: string[]): Promise<number> => {
    const { code, stdout } = await inFolder('sft', '--model', model, '--files', train, '--output-dir', 'out', '--dry-run', '--max-length', '64', '--adapter.type', 'lora', ...quantize)
    expect(code).toBe(0)
    return Number(/= weights ([\d.]+) KiB/.exec(stdout)![1])
  }
  const [full, layers, head] = [await weights(), await weights('--quantize', 'int8'), await weights('--quantize.format', 'int8', '--quantize.head', 'int8')]
  expect(layers).toBeLessThan(full)
  expect(head).toBeLessThan(layers)
})

test('eval and generate print JSON', async () => {
  const { code, stdout } = await inFolder('eval', '--model', model, '--files', held, '--json')
  expect(code).toBe(0)
  const result = JSON.parse(stdout) as { loss: number, perplexity: number }
  expect(result.perplexity).toBeCloseTo(Math.exp(result.loss), 3)
  const generated = await inFolder('generate', '--model', model, '--prompt', 'the cat, my friend', '--prompt', 'a dog', '--max-new-tokens', '4', '--json')
  expect(generated.code).toBe(0)
  const lines = generated.stdout.trim().split('\n').map((line) => JSON.parse(line) as { tokenIds: number[], text: string })
  expect(lines).toHaveLength(2)
  for (const { tokenIds, text } of lines) { expect(tokenIds.length).toBeLessThanOrEqual(4); expect(typeof text).toBe('string') }
})

test('chat answers one message', async () => {
  const { code } = await inFolder('chat', '--model', model, '--message', 'What does the cat do?', '--max-new-tokens', '3')
  expect(code).toBe(0)
})

describe('sft', () => {
  const args = ['sft', '--model', model, '--files', train, '--output-dir', 'out', '--max-length', '64', '--max-steps', '1000', '--per-device-train-batch-size', '4', '--learning_rate', '1e-3', '--loggingSteps', '50']

  test.each<[NodeJS.Signals, number]>([['SIGINT', 130], ['SIGTERM', 143]])('%s finishes the step, saves and exits with %d; resuming gives what was interrupted', async (signal, exitCode) => {
    const [whole, cut] = [temporaryFolder(), temporaryFolder()]
    const running = start(args, { cwd: cut })
    await running.saw('1/1000 ·')
    running.signal(signal)
    const stopped = await running.ended
    expect(stopped, stopped.stderr).toMatchObject({ code: exitCode, stdout: expect.stringMatching(/stopped at step \d+; go on with --resume-from-checkpoint/) as string })
    expect(readdirSync(join(cut, 'out')).filter((name) => name.startsWith('checkpoint-'))).toHaveLength(1)
    expect(readdirSync(join(cut, 'out'))).not.toContain('model.safetensors')
    const [rest, uninterrupted] = [await anneal([...args, '--resume-from-checkpoint'], { cwd: cut }), await anneal(args, { cwd: whole })]
    expect(rest, rest.stderr).toMatchObject({ code: 0, stdout: expect.stringContaining('done: out') as string })
    expect(uninterrupted.code).toBe(0)
    expect(readFileSync(join(cut, 'out', 'model.safetensors')).equals(readFileSync(join(whole, 'out', 'model.safetensors')))).toBe(true)
  })
})

test('pretrain from a YAML file', async () => {
  const cwd = temporaryFolder()
  writeFileSync(join(cwd, 'run.yaml'), `tokenizer: ${model}\nfiles: ${held}\nsample_by: line\noutput_dir: out\nmax_steps: 3\nmax_length: 64\nmodel_config:\n  hidden_size: 32\n  intermediate_size: 64\n  num_hidden_layers: 1\n  num_attention_heads: 2\n`)
  const { code, stderr } = await anneal(['pretrain', 'run.yaml', '--set', 'modelConfig.num_hidden_layers=2'], { cwd })
  expect(code, stderr).toBe(0)
  expect(JSON.parse(readFileSync(join(cwd, 'out', 'config.json'), 'utf8'))).toMatchObject({ hidden_size: 32, num_hidden_layers: 2 })
})
