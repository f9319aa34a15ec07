export { cpo } from './cpo.ts'
export { dpo, type PairBatch } from './dpo.ts'
export { kto, type UnpairedBatch } from './kto.ts'
export * from './losses/index.ts'
export {
  cpoSchema, dpoSchema, ktoSchema, orpoSchema, rewardSchema, rrhfSchema, tpoSchema, type CpoOptions, type DpoOptions, type KtoOptions, type OrpoOptions, type RewardOptions, type RrhfOptions, type TpoOptions,
} from './options.ts'
export { orpo } from './orpo.ts'
export type { PreparedPreferenceRun, WithRows } from './prepare.ts'
export { reward, stepwiseReward, type PreparedRewardRun, type PreparedStepwiseRun } from './reward.ts'
export { rrhf, type RankedBatch } from './rrhf.ts'
export { score, scoreSequences, type Score, type ScoredRow } from './score.ts'
export { scoreSchema, type ScoreOptions } from './scoreOptions.ts'
export { tpo, type TripleBatch } from './tpo.ts'
