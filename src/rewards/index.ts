export { RewardRunner, type RewardRunnerOptions, type RewardTable } from './runner.ts'
export { nameReward, rewardEach, type AnyRow, type RewardContext, type RewardFunction, type RewardSample, type RewardValues } from './types.ts'
