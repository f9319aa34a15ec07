import { rewardEach, type AnyRow, type RewardFunction } from './types.ts'

/** `right` where the completion matches the pattern, else `wrong`. */
export const regexMatch = <Row = AnyRow>(pattern: RegExp, { name = 'regexMatch', right = 1, wrong = 0 }: { name?: string, right?: number, wrong?: number } = {}): RewardFunction<Row> => {
  // A global pattern would go on from where the last text ended.
  const own = new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, ''))
  return rewardEach<Row>(name, ({ completion }) => own.test(completion) ? right : wrong)
}

/** 1 for a completion that thinks once, at its beginning: TRL's think_format_reward. */
export const thinkFormat = <Row = AnyRow>(): RewardFunction<Row> => regexMatch(/^<think>(?![\s\S]*<think>)([\s\S]*?)<\/think>[\s\S]*$/, { name: 'thinkFormat' })
