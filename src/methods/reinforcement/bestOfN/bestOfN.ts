import { createHash } from 'node:crypto'
import { readFile, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { during } from '../../../activity.ts'
import { ConfigError } from '../../../errors.ts'
import { appendText, makeFolder, replaceFile, writeText } from '../../../files/index.ts'
import type { Rows } from '../../../data/index.ts'
import { AutoModelForCausalLM, readConfig } from '../../../models/index.ts'
import { givenOptions, parseOptions } from '../../../options.ts'
import { RewardRunner, type AnyRow, type RewardFunction } from '../../../rewards/index.ts'
import { Tokenizer } from '../../../tokenizers/index.ts'
import { checkVocabulary } from '../../prepare.ts'
import { sampleAnswers, type SampledAnswer } from '../rollouts/answers.ts'
import { bestOfNSchema, type BestOfNArguments, type BestOfNOptions } from './options.ts'
import { bestOfNKl, passAtK, selectCandidates } from './selection.ts'
import type { EnvironmentFactory } from '../environment/environment.ts'
import { scoresOf } from '../ppo/scores.ts'
import { loadPrompts, type PromptRow } from '../rollouts/prompts.ts'
import { loadJudge, rewardFunctions, type Judge } from '../rewardSources.ts'

/** What bestOfN() takes beside the options that a file can hold. */
export interface BestOfNInput<Row extends object = AnyRow> extends BestOfNOptions {
  rewards?: readonly RewardFunction<Row>[]
  environment?: EnvironmentFactory<Row>
  rows?: Rows<Row>
  signal?: AbortSignal
  /** Called after each batch of prompts. */
  onProgress?: (done: number, total: number) => void
}

/** What `bestOfN` wrote. */
export interface BestOfNResult {
  /** False where the signal ended it before the last prompt. */
  finished: boolean
  prompts: number
  /** Rows written. */
  kept: number
  /** Prompts of which no answer was kept. */
  withoutAnswer: number
  /** What went wrong in reward functions, each message once; such answers have no reward from them. */
  rewardErrors: string[]
  /** Mean score of all judged answers, and of the best of each prompt. */
  meanScore: number
  meanBestScore: number
  /** pass@k by k. */
  passAtK: Record<number, number>
  /** Most that the best answers are away from the policy, in nats; what numGenerations buys is to be seen beside it. */
  klBound: number
}

/** What is known of one prompt once it is done. */
interface Done { prompt: number; scores: (number | null)[]; kept: unknown[] }

/**
 * Rejection sampling (best-of-n; RAFT, Dong et al. 2023; RFT, Yuan et al. 2023): draws answers to each prompt, judges them and writes those that are kept as
 * rows that sft() reads. The file appears when all prompts are done; a stopped run goes on with the prompts that are missing, to the same file.
 *
 *     await bestOfN({ model: './sft', files: 'prompts.jsonl', rewards: [correct], numGenerations: 16, select: 'threshold', threshold: 1, output: 'rft.jsonl' })
 */
export async function bestOfN<Row extends object = AnyRow>(input: BestOfNInput<Row>): Promise<BestOfNResult> {
  const { rewards: given = [], environment, rows, signal, onProgress, ...options } = givenOptions('bestOfN', input, "model: './model', files: 'prompts.jsonl', output: 'best.jsonl', rewards: [myReward]")
  const args = parseOptions(bestOfNSchema, options, 'best-of-n')
  const rewards = await rewardFunctions(args, given as readonly RewardFunction[], environment ? 'adds' : 'none')
  if (args.select === 'threshold' && args.threshold === undefined) throw new ConfigError("threshold: select 'threshold' needs the least score to keep; give threshold")
  const tooLarge = args.passAtK.find((k) => k > args.numGenerations)
  if (tooLarge !== undefined) throw new ConfigError(`passAtK: expected at most numGenerations, ${args.numGenerations}, got ${tooLarge}`)
  const tokenizer = await Tokenizer.fromPretrained(args.tokenizer ?? args.model)
  checkVocabulary(tokenizer, await readConfig(args.model), args.tokenizer ?? args.model)
  const loading = { dtype: args.dtype, device: args.device }
  const model = await AutoModelForCausalLM.fromPretrained(args.model, loading)
  let judging: Judge | undefined
  try {
    model.requiresGrad_(false)
    const bf16 = args.bf16 ?? model.device.name !== 'cpu'
    if (args.rewardModel !== undefined) judging = await loadJudge(args.rewardModel, tokenizer, loading)
    const all = [...rewards, ...judging ? [judging.reward as RewardFunction] : []]
    const runner = all.length === 0 ? null : new RewardRunner(all, { maxConcurrency: args.rewardConcurrency, timeout: args.rewardTimeout })
    const { train: prompts, fingerprint } = await loadPrompts({
      files: args.files, rows: rows as Rows<AnyRow> | undefined, columns: args.columns, seed: args.seed, maxPromptLength: args.maxPromptLength, maxCompletionLength: args.maxCompletionLength, chatTemplateKwargs: args.chatTemplateKwargs,
    }, model, tokenizer)
    const progress = await openProgress(args, fingerprint, all.map(({ name }) => name))
    const done = progress.done
    const rewardErrors = new Set<string>()
    const { numGenerations, maxCompletionLength, temperature, topK, topP, seed, maxTurns, environmentTimeout } = args
    // Prompts are done in order, so those that are missing are the last ones.
    const draw = async (): Promise<void> => {
      while (done.size < prompts.length && !signal?.aborted) {
        const first = done.size
        const batch = prompts.slice(first, first + args.promptsPerBatch)
        const answers = await sampleAnswers(model, tokenizer, batch, {
          numGenerations, maxCompletionLength, temperature, topK, topP, seed, firstPrompt: first, bf16, signal, environment: environment, chatTemplateKwargs: args.chatTemplateKwargs, maxTurns, environmentTimeout,
        })
        if (signal?.aborted) break
        const judged = await Promise.all(batch.map((prompt, b) => judge(answers.slice(b * numGenerations, (b + 1) * numGenerations), prompt, runner, args)))
        const records = judged.map(({ errors, ...one }, b): Done => {
          for (const error of errors) rewardErrors.add(error)
          return { prompt: first + b, ...one }
        })
        await progress.add(records)
        for (const record of records) done.set(record.prompt, record)
        onProgress?.(done.size, prompts.length)
      }
    }
    const kept = (): string => `${done.size} of ${prompts.length} prompts are kept, and the same command goes on from there`
    await during({ what: 'sampling answers', kept }, draw)
    const finished = done.size === prompts.length
    const ordered = [...done.values()].sort((a, b) => a.prompt - b.prompt)
    if (finished) {
      await replaceFile(args.output, ordered.flatMap(({ kept }) => kept.map((row) => `${JSON.stringify(row)}\n`)).join(''))
      await progress.remove()
    }
    return { finished, rewardErrors: [...rewardErrors], ...statistics(ordered, args) }
  } finally {
    judging?.dispose()
    model.dispose()
  }
}

/** Scores the answers to one prompt, and makes rows of those that are kept. */
async function judge(answers: readonly SampledAnswer[], prompt: PromptRow, runner: RewardRunner | null, args: BestOfNArguments): Promise<Omit<Done, 'prompt'> & { errors: string[] }> {
  const { scores, errors } = await scoresOf(answers.map((answer) => ({ ...answer, prompt: 0 })), [prompt], runner, args.rewardWeights, 0)
  const totals = scores.map(({ total }) => total)
  const candidates = answers.map(({ text, ended }, i) => ({ text, score: ended || args.keepTruncated ? totals[i]! : null }))
  return { errors, scores: totals, kept: selectCandidates(candidates, args).map((i) => rowOf(prompt, answers[i]!, totals[i]!)) }
}

/** A row that sft() reads: messages where the prompt is a conversation or there was one, else prompt and completion. */
function rowOf({ prompt, row }: PromptRow, { text, messages }: SampledAnswer, score: number): unknown {
  const { prompt: _, messages: __, completion: ___, ...columns } = row
  if (messages) return { messages, score, ...columns }
  return typeof prompt === 'string' ? { prompt, completion: text, score, ...columns } : { messages: [...prompt, { role: 'assistant', content: text }], score, ...columns }
}

function statistics(done: readonly Done[], args: BestOfNArguments): Omit<BestOfNResult, 'finished' | 'rewardErrors'> {
  const mean = (numbers: readonly number[]): number => (numbers.length === 0 ? NaN : numbers.reduce((a, b) => a + b, 0) / numbers.length)
  const given = done.map(({ scores }) => scores.filter((score) => score !== null))
  return {
    prompts: done.length, kept: done.reduce((sum, { kept }) => sum + kept.length, 0), withoutAnswer: done.filter(({ kept }) => kept.length === 0).length,
    meanScore: mean(given.flat()), meanBestScore: mean(given.filter(({ length }) => length > 0).map((scores) => Math.max(...scores))),
    // An answer that nobody judged counts as wrong.
    passAtK: Object.fromEntries(args.passAtK.map((k) => [k, mean(done.map(({ scores }) => passAtK(scores.length, scores.filter((score) => score !== null && score >= args.correctFrom).length, k)))])),
    klBound: bestOfNKl(args.numGenerations),
  }
}

interface Progress { done: Map<number, Done>; add: (records: readonly Done[]) => Promise<void>; remove: () => Promise<void> }

/** Options that change neither draws nor what is kept. */
const free = new Set(['output', 'resume', 'device', 'rewardTimeout', 'rewardConcurrency', 'promptsPerBatch', 'environmentTimeout', 'passAtK', 'correctFrom', 'files'])

/** A line of the progress; one that is damaged counts as not there. */
function parsed(line: string): unknown {
  try { return JSON.parse(line) } catch { return undefined }
}

/** The file of what is done: a line that names the run, then a line a prompt. A last line that a crash cut short is passed over. */
async function openProgress(args: BestOfNArguments, data: string, rewards: readonly string[]): Promise<Progress> {
  const path = `${args.output}.progress`
  const decisive = Object.fromEntries(Object.entries(args).filter(([name]) => !free.has(name)))
  const run = createHash('sha256').update(JSON.stringify([decisive, data, rewards])).digest('hex')
  const done = new Map<number, Done>()
  await makeFolder(dirname(path))
  const text = args.resume ? await readFile(path, 'utf8').catch(() => '') : ''
  const lines = text.split('\n').slice(0, -1)
  if (lines.length > 0) {
    if ((parsed(lines[0]!) as { run?: unknown } | undefined)?.run !== run) throw new ConfigError(`${path}: it is of a run with other options, data or rewards; finish that one, pass resume: false, or choose another output`)
    for (const line of lines.slice(1)) {
      const record = parsed(line) as Done | undefined
      if (record?.prompt === done.size) done.set(record.prompt, record)
    }
  }
  // What is left of a line that was cut must not be continued.
  await writeText(path, [JSON.stringify({ run }), ...[...done.values()].map((record) => JSON.stringify(record))].map((line) => `${line}\n`).join(''))
  return { done, add: (records) => appendText(path, records.map((record) => `${JSON.stringify(record)}\n`).join('')), remove: () => rm(path) }
}
