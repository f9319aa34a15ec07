// Proves that unknown options are all named, and that those of Python libraries are answered with their names here.
import { expect, test } from 'vitest'
import { ConfigError } from '../src/errors.ts'
import { sftSchema } from '../src/methods/options.ts'
import { grpoSchema } from '../src/methods/reinforcement/index.ts'
import { parseOptions } from '../src/options.ts'
import { otherName } from '../src/otherNames.ts'

const problems = (schema: Parameters<typeof parseOptions>[0], options: object): string[] => {
  try {
    parseOptions(schema, options, 'options')
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError)
    return (error as Error).message.split('\n')
  }
  return []
}

test('every unknown option is named', () => {
  expect(problems(sftSchema, { model: 'm', outputDir: 'o', trainDataset: [], peft_config: {}, callbacks: [], maxSeqLength: 5, learning_rate: 1, quux: 1 })).toEqual([
    'trainDataset: unknown option; here it is files, or rows in a program', 'peft_config: unknown option; here it is adapter: { type: "lora", … }',
    'callbacks: unknown option; here it is run.trainer.on(listener)', 'maxSeqLength: unknown option; here it is maxLength', 'learning_rate: unknown option; did you mean "learningRate"?', 'quux: unknown option',
  ])
  expect(problems(grpoSchema, { model: 'm', outputDir: 'o', reward_funcs: [], tools: [] })).toEqual([
    'reward_funcs: unknown option; here it is reward by name, or rewards in a program', 'tools: unknown option; here it is environment: toolEnvironment({ tools })',
  ])
})

test('a name whose option a method does not have gets no such answer', () => {
  expect(otherName('useVllm', Object.keys(sftSchema.shape))).toBe('')
  expect(otherName('constructor', Object.keys(sftSchema.shape))).toBe('')
})
