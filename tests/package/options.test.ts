// Proves that options declared `as const`, whose arrays are readonly, fit every method; the type check is the proof, and the schemas take them.
import { expect, expectTypeOf, test } from 'vitest'
import type {
  BestOfNOptions, DistillOptions, DpoOptions, GenerateOptions, GrpoOptions, OnlineDpoOptions, PpoOptions, PretrainOptions, RewardOptions, RrhfOptions, SftOptions, TpoOptions,
} from '../../src/index.ts'
import { sftSchema } from '../../src/methods/options.ts'
import { dpoSchema } from '../../src/methods/preference/options.ts'

const shared = { model: 'm', files: ['a', 'b'], outputDir: 'o', reportTo: [], freeze: ['model.embed_tokens'], samplePrompts: ['once'], evalFiles: ['c'] } as const
const adapter = { type: 'lora', r: 4, targetModules: ['q_proj', 'v_proj'], modulesToSave: ['lm_head'], layersToTransform: [0, 1], rankPattern: { q_proj: 8 } } as const
const sources = { datasets: [{ files: ['a'], weight: 2 }, { files: 'b' }] } as const

test('constants are options', () => {
  const sft = { ...shared, ...sources, files: undefined, adapter, quantize: { format: 'nf4', skipModules: ['lm_head'] } } as const
  const dpo = { ...shared, adapter, lossType: ['sigmoid', 'sft'], lossWeights: [1, 0.5] } as const
  expectTypeOf<Omit<typeof sft, 'files'>>().toExtend<SftOptions>()
  expectTypeOf(dpo).toExtend<DpoOptions>()
  expectTypeOf(shared).toExtend<PretrainOptions>()
  expectTypeOf(shared).toExtend<TpoOptions>()
  expectTypeOf(shared).toExtend<RrhfOptions>()
  expectTypeOf({ ...shared, rewardWeights: [1, 2], stopStrings: ['</a>'] } as const).toExtend<GrpoOptions>()
  expectTypeOf({ ...shared, beta: [0.1, 0.2] } as const).toExtend<OnlineDpoOptions>()
  expectTypeOf({ ...shared, rewardModel: 'r' } as const).toExtend<PpoOptions>()
  expectTypeOf({ model: 'm', files: ['a'], output: 'o', passAtK: [1, 4] } as const).toExtend<BestOfNOptions>()
  expectTypeOf({ stopStrings: ['x'], suppressTokens: [1] } as const).toExtend<GenerateOptions>()
  const { samplePrompts: _, ...classifier } = shared
  expectTypeOf(classifier).toExtend<RewardOptions>()
  expectTypeOf<{ readonly teacher: 't', readonly initFromTeacher: readonly [0, 2], readonly files: readonly ['a'], readonly outputDir: 'o' }>().toExtend<DistillOptions>()
  expect(sftSchema.parse(sft)).toMatchObject({ datasets: [{ files: ['a'], weight: 2 }, { files: 'b' }], reportTo: [], adapter: { targetModules: ['q_proj', 'v_proj'] } })
  expect(dpoSchema.parse(dpo).lossType).toEqual(['sigmoid', 'sft'])
})
