import { chatServer, type ChatServerOptions } from './chatServer.ts'
import { lastNumber } from './match.ts'
import { rewardEach, type AnyRow, type RewardFunction, type RewardSample } from './types.ts'

/** What the reward by a judging model takes. */
export interface JudgeOptions<Row = AnyRow> extends ChatServerOptions {
  /** What the judge is told of an answer; its reply's last number is the reward. */
  instruction: (sample: RewardSample<Row>) => string
  /** The reward from the reply; null where it holds none. Default: its last number. */
  read?: (reply: string) => number | null
  /** Numbers beyond are no verdict, and count as null. Default 0 and 10. */
  range?: readonly [number, number]
}

const number = (reply: string): number | null => lastNumber(reply) ?? null

/** A language model as judge, over HTTP. What it does not answer with a number in the range is null; where no reply can be had, the sample counts as failed. */
export function llmJudge<Row = AnyRow>({ instruction, read = number, range = [0, 10], ...server }: JudgeOptions<Row>): RewardFunction<Row> {
  const ask = chatServer('llmJudge', server)
  return rewardEach<Row>('llmJudge', async (sample, { signal }) => {
    const verdict = read(await ask(instruction(sample), signal))
    return verdict !== null && verdict >= range[0] && verdict <= range[1] ? verdict : null
  })
}
