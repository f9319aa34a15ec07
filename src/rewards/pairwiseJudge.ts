import { createHash } from 'node:crypto'
import { ConfigError } from '../errors.ts'
import { chatServer, type ChatServerOptions } from './chatServer.ts'
import { nameReward, RewardMistake, type AnyRow, type RewardContext, type RewardFunction, type RewardSample } from './types.ts'

/** Two answers to one prompt. */
export type AnswerPair<Row = AnyRow> = readonly [RewardSample<Row>, RewardSample<Row>]

/** Says which of two answers to a prompt is the better, 0 or 1; null where it cannot tell. The function's `name` names it in logs. */
export type PairwiseJudge<Row = AnyRow> = (pair: AnswerPair<Row>, context: RewardContext) => 0 | 1 | null | Promise<0 | 1 | null>

/** What a judging model that compares takes. */
export interface PairwiseJudgeOptions<Row = AnyRow> extends ChatServerOptions {
  /**
   * Which answer the judge reads first. `random` (TRL's shuffle_order): either, by a coin that depends on the step and the answers only. `both`: it is asked
   * twice, and where its verdicts differ there is none. `given`: as they come. Default `random`.
   */
  order?: 'random' | 'both' | 'given'
  /** What it is told, for the answers in the order it reads them; its reply is to begin with 0 for the first or 1 for the second. Default: a question for the better answer. */
  instruction?: (pair: AnswerPair<Row>) => string
  /** The verdict from the reply: 0 for the answer it read first, 1 for the other; null where it holds none. Default: the 0 or 1 that it begins with. */
  read?: (reply: string) => 0 | 1 | null
  /** Asks no more than so many times, after which there are no verdicts (TRL: max_requests); null for no limit. Default null. */
  maxRequests?: number | null
  /** @internal Names the URL in errors. */
  urlName?: string
}

/** {prompt}, {response0} and {response1} stand for the texts. */
const defaultJudgePrompt = `Two answers to the same prompt follow. Decide which of them a careful reader would prefer: the one that is more correct, more helpful and better to the point.

<prompt>
{prompt}
</prompt>

<answer id="0">
{response0}
</answer>

<answer id="1">
{response1}
</answer>

Reply with the id of the better answer, 0 or 1, and with nothing else.`

const promptText = ({ prompt }: RewardSample<unknown>): string =>
  (typeof prompt === 'string' ? prompt : prompt.map(({ role, content }) => `${role}: ${typeof content === 'string' ? content : JSON.stringify(content)}`).join('\n\n'))

/** An instruction from a text with {prompt}, {response0} and {response1}. Throws ConfigError where one of them is missing. */
export function judgeInstruction(template: string): (pair: AnswerPair<unknown>) => string {
  for (const name of ['{prompt}', '{response0}', '{response1}']) if (!template.includes(name)) throw new ConfigError(`judgePrompt: expected a text with {prompt}, {response0} and {response1}, got one without ${name}`)
  return (pair) => {
    const texts: Readonly<Record<string, string>> = { prompt: promptText(pair[0]), response0: pair[0].completion, response1: pair[1].completion }
    // In one pass: an answer may hold such a name itself.
    return template.replace(/\{(prompt|response0|response1)\}/g, (_, name: string) => texts[name]!)
  }
}

/** Whether the second answer is read first. */
function isSwapped<Row>([first, second]: AnswerPair<Row>, step: number): boolean {
  const hash = createHash('sha256').update(`${step} ${first.promptIds.join()} ${first.completionIds.join()} ${second.completionIds.join()}`)
  return (hash.digest()[0]! & 1) === 1
}

const verdictOf = (reply: string): 0 | 1 | null => {
  const [, id] = /^[\s"'`*]*([01])(?!\d)/.exec(reply) ?? []
  return id === undefined ? null : id === '1' ? 1 : 0
}

/** A language model that compares two answers, over HTTP (TRL's OpenAIPairwiseJudge): for online DPO. A reply without a verdict gives null. */
export function llmPairwiseJudge<Row = AnyRow>(options: PairwiseJudgeOptions<Row>): PairwiseJudge<Row> {
  const { urlName, order = 'random', instruction = judgeInstruction(defaultJudgePrompt), read = verdictOf, maxRequests = null, ...server } = options
  const ask = chatServer('llmPairwiseJudge', { maxTokens: 16, ...server }, urlName)
  let asked = 0
  /** The verdict on the pair as it is given, whichever is read first. */
  const judge = async (pair: AnswerPair<Row>, swapped: boolean, signal: AbortSignal): Promise<0 | 1 | null> => {
    const verdict = read(await ask(instruction(swapped ? [pair[1], pair[0]] : pair), signal))
    return verdict === null || !swapped ? verdict : verdict === 0 ? 1 : 0
  }
  const compare: PairwiseJudge<Row> = async (pair, { signal, step }) => {
    asked += order === 'both' ? 2 : 1
    if (maxRequests !== null && asked > maxRequests) return null
    if (order !== 'both') return judge(pair, order === 'random' && isSwapped(pair, step), signal)
    const [one, other] = await Promise.all([judge(pair, false, signal), judge(pair, true, signal)])
    return one === other ? one : null
  }
  return Object.defineProperty(compare, 'name', { value: 'llmPairwiseJudge' })
}

/** A judge as a reward function: 1 for the better answer and 0 for the other, null for both without a verdict. Its calls have two answers each. */
export function pairwiseReward<Row = AnyRow>(judge: PairwiseJudge<Row>): RewardFunction<Row> {
  const name = judge.name || 'judge'
  return nameReward(name, async (samples, context) => {
    const [first, second] = samples
    if (!first || !second || samples.length > 2) throw new RewardMistake(`judge ${name}: expected 2 answers to a prompt, got ${samples.length}; a judge that compares is for online DPO`)
    const verdict: unknown = await judge([first, second], context)
    if (verdict === null) return [null, null]
    if (verdict !== 0 && verdict !== 1) throw new RewardMistake(`judge ${name}: expected 0 or 1, the number of the better answer, or null, got ${JSON.stringify(verdict)}`)
    return verdict === 0 ? [1, 0] : [0, 1]
  })
}
