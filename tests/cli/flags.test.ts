// Proves that flags, --set and YAML files in any spelling give the same options, and that whatever is wrong is named with its place.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { addFlags, normaliseArguments, readOptions } from '../../src/cli/flags.ts'
import { ConfigError, FileAccessError } from '../../src/errors.ts'
import { pretrainSchema, sftSchema } from '../../src/methods/options.ts'
import { temporaryFolder } from '../files/helpers.ts'

/** The options that a command line gives. */
function read<S extends z.ZodObject>(schema: S, ...argv: string[]): z.output<S> {
  let result: z.output<S> | undefined
  addFlags(new Command('test').exitOverride().configureOutput({ writeErr: () => undefined }), schema)
    .action((config: string | undefined, flags: Record<string, unknown>) => { result = readOptions(schema, config, flags) })
    .parse(normaliseArguments(argv), { from: 'user' })
  return result!
}

const sft = (...argv: string[]) => read(sftSchema, '--model', 'm', '--output-dir', 'o', ...argv)

/** A YAML file. */
function yaml(text: string): string {
  const path = join(temporaryFolder(), 'config.yaml')
  writeFileSync(path, text)
  return path
}

describe('flags', () => {
  test.each(['--learning-rate', '--learning_rate', '--learningRate'])('%s', (flag) => {
    expect(sft(flag, '3e-4').learningRate).toBe(3e-4)
    expect(sft(`${flag}=3e-4`).learningRate).toBe(3e-4)
  })

  test('read numbers, booleans, choices, lists, tables and null as the schema wants them', () => {
    expect(sft('--bf16', '--packing', 'bfd_split', '--max-length', 'null', '--eval-split', '0.1', '--columns', 'text=body,prompt=question', '--report-to', 'jsonl,html', '--cache-dir', 'false')).toMatchObject({
      bf16: true, packing: 'bfd_split', maxLength: null, evalSplit: 0.1, columns: { text: 'body', prompt: 'question' }, reportTo: ['jsonl', 'html'], cacheDir: false,
    })
    expect(sft('--packing', '--bf16', 'false', '--resume-from-checkpoint')).toMatchObject({ packing: true, bf16: false, resumeFromCheckpoint: true })
    expect(sft('--resume-from-checkpoint', 'o/checkpoint-10', '--model', '123')).toMatchObject({ resumeFromCheckpoint: 'o/checkpoint-10', model: '123' })
    expect(sft('--lr-scheduler-kwargs', '{numCycles: 2}').lrSchedulerKwargs).toEqual({ numCycles: 2 })
  })

  test('free text is never split: a flag is repeated for several', () => {
    expect(sft('--files', 'data/{a,b}.jsonl').files).toBe('data/{a,b}.jsonl')
    expect(sft('--files', 'a.jsonl', '--files', 'b, c.jsonl').files).toEqual(['a.jsonl', 'b, c.jsonl'])
    expect(sft('--sample-prompts', '[INST] Hello, you [/INST]').samplePrompts).toEqual(['[INST] Hello, you [/INST]'])
    expect(sft('--freeze', 'model.embed_tokens', '--freeze', 'model.layers.0.*').freeze).toEqual(['model.embed_tokens', 'model.layers.0.*'])
  })

  test('nested options have a path', () => {
    const expected = { hiddenSize: 64, ropeParameters: { rope_type: 'default' } }
    const base = ['--output-dir', 'o'] as const
    expect(read(pretrainSchema, ...base, '--model-config.hidden-size', '64', '--model-config.rope-parameters.rope_type=default').modelConfig).toEqual({ hiddenSize: 64, ropeParameters: { ropeType: 'default' } })
    expect(read(pretrainSchema, ...base, '--set', 'modelConfig.hiddenSize=64', '--set', 'model_config.ropeParameters.rope_type=default').modelConfig).toEqual(expected)
    expect(sft('--set', 'learning_rate=0.5').learningRate).toBe(0.5)
  })

  test.each<[string, string[]]>([
    ['--learning-rate: expected number, received string', ['--learning-rate', 'fast']],
    ['--learning-rate: cannot read "{"', ['--learning-rate', '{']],
    ['--columns: expected key=value, got "text"', ['--columns', 'text']],
    ['--lr-scheduler-type: expected one of', ['--lr-scheduler-type', 'cosin']],
    ['did you mean "cosine"?', ['--lr-scheduler-type', 'cosin']],
    ['--set: expected path=value, got "learningRate"', ['--set', 'learningRate']],
    ['--set: learningRate holds a value, so it has no peak', ['--learning-rate', '1', '--set', 'learningRate.peak=1']],
    ['--set: "__proto__.polluted" names no option', ['--set', '__proto__.polluted=1']],
    ['learningRat: unknown option; did you mean "learningRate"?', ['--set', 'learningRat=1']],
    ['--max-length: expected number, received string', ['--max-length', 'long']],
    ['files: expected string, or expected array', ['--set', 'files=5']],
  ])('%s', (message, argv) => {
    expect(() => sft(...argv)).toThrow(ConfigError)
    expect(() => sft(...argv)).toThrow(message)
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined()
  })
})

describe('YAML', () => {
  test.each(['learning_rate', 'learningRate', 'learning-rate'])('knows the option as %s', (name) => {
    expect(read(sftSchema, yaml(`${name}: 1.0e-3\nmodel: m\noutput_dir: o\nfiles: [a, b]\nmax_length: null\n`))).toMatchObject({ learningRate: 1e-3, outputDir: 'o', files: ['a', 'b'], maxLength: null })
  })

  test('is overridden by flags', () => {
    expect(read(sftSchema, yaml('model: m\noutputDir: o\nseed: 1\nbf16: true\n'), '--seed', '2', '--set', 'bf16=false')).toMatchObject({ seed: 2, bf16: false })
  })

  test.each<[string, string, string]>([
    ['a wrong value', 'model: m\noutputDir: o\nlearning_rate: fast\n', ':3:16: learningRate: expected number, received string'],
    ['an unknown option', 'model: m\noutputDir: o\n\nlerningRate: 1\n', ':4:1: lerningRate: unknown option; did you mean "learningRate"?'],
    ['a value in a list', 'model: m\noutputDir: o\nreport_to:\n  - jsonl\n  - htlm\n', ':5:5: reportTo.1: expected one of'],
    ['a value in a list of tables', 'model: m\noutputDir: o\ndatasets:\n  - files: a\n    weight: -1\n', ':5:13: datasets.0.weight: '],
    ['an unknown name in a table', 'model: m\noutputDir: o\ndatasets:\n  - files: a\n    wieght: 1\n', ':5:5: datasets.0.wieght: unknown option; did you mean "weight"?'],
    ['broken syntax', 'model: m\noutputDir: [o\n', ':3:1: '],
    ['an option given twice', 'model: m\nmodel: n\n', ':2:1: Map keys must be unique'],
    ['an option given twice, in two spellings', 'model: m\nmaxSteps: 1\nmax_steps: 2\n', ': maxSteps is given twice, as maxSteps and as max_steps; keep one'],
    ['a list', '- model\n', ': expected options as "name: value" lines'],
    ['a missing option', 'model: m\n', ': outputDir: '],
    ['aliases without end', `a: &a [${'x,'.repeat(20)}]\n${Array.from({ length: 12 }, (_, i) => `${'bcdefghijklmn'[i]!}: &${'bcdefghijklmn'[i]!} [${`*${'abcdefghijklm'[i]!},`.repeat(10)}]\n`).join('')}`, ': Excessive alias count'],
  ])('names the place of %s', (_, text, message) => {
    const path = yaml(text)
    expect(() => read(sftSchema, path)).toThrow(ConfigError)
    expect(() => read(sftSchema, path)).toThrow(`${path}${message}`)
  })

  test('that is missing is a FileAccessError', () => {
    expect(() => read(sftSchema, join(temporaryFolder(), 'none.yaml'))).toThrow(FileAccessError)
  })

  test('may be empty', () => {
    expect(read(sftSchema, yaml('# nothing yet\n'), '--model', 'm', '--output-dir', 'o').model).toBe('m')
  })
})
