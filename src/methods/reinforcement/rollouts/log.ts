import { readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { z } from 'zod'
import { ConfigError, FileFormatError } from '../../../errors.ts'
import { appendText, makeFolder, writeText } from '../../../files/index.ts'
import { lazily } from '../../../options.ts'
import type { Group, RolloutSource } from '../policy/generation.ts'
import type { Rollout } from './rollouts.ts'

const lineSchema = lazily(() => z.object({
  step: z.int(), group: z.int(), sample: z.int(), promptIds: z.array(z.int()), completionIds: z.array(z.int()), text: z.string(),
  logprobs: z.array(z.number().nullable()), mask: z.array(z.int()), finishReason: z.enum(['stop', 'length', 'stopString', 'aborted']),
}))

/** Writes every rollout of a run as a line of JSON: tokens, text, log-probabilities, rewards and advantage. `append` goes on with a resumed run's file. */
export class RolloutLog {
  readonly #path: string
  readonly #names: readonly string[]
  #append: boolean

  constructor(path: string, names: readonly string[], append: boolean) {
    this.#path = path
    this.#names = names
    this.#append = append
  }

  async write<Row>(step: number, groups: readonly Group<Row>[], advantages: readonly number[]): Promise<void> {
    let at = 0
    const lines = groups.flatMap(({ prompt, rollouts, values }, group) => rollouts.map((rollout, i) => JSON.stringify({
      step, group, sample: rollout.sample, prompt: prompt.prompt, text: rollout.text,
      rewards: Object.fromEntries(this.#names.map((name, f) => [name, finite(values[i * this.#names.length + f]!)])), advantage: advantages[at++],
      finishReason: rollout.finishReason, promptIds: Array.from(rollout.promptIds), completionIds: Array.from(rollout.completionIds), logprobs: Array.from(rollout.logprobs, finite), mask: Array.from(rollout.mask),
    })))
    const text = `${lines.join('\n')}\n`
    if (!this.#append) await makeFolder(dirname(this.#path))
    await (this.#append ? appendText(this.#path, text) : writeText(this.#path, text))
    this.#append = true
  }
}

const finite = (value: number): number | null => Number.isFinite(value) ? value : null

/** Rollouts of a log instead of new ones, for the same steps and prompts. Throws ConfigError where the log has others or none. */
export async function replaySource(path: string): Promise<RolloutSource> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => { throw new ConfigError(`replay: ${path}: cannot read the rollout log: ${(error as Error).message}`, { cause: error }) })
  const steps = new Map<number, Map<string, Omit<Rollout, 'prompt' | 'sample'>[]>>()
  text.split('\n').forEach((line, i) => {
    if (line === '') return
    const { step, promptIds, completionIds, logprobs, mask, ...rest } = parseLine(line, `${path}:${i + 1}`)
    const prompts = steps.get(step) ?? new Map<string, Omit<Rollout, 'prompt' | 'sample'>[]>()
    steps.set(step, prompts)
    const rollouts = prompts.get(promptIds.join()) ?? []
    prompts.set(promptIds.join(), rollouts)
    rollouts.push({
      text: rest.text, finishReason: rest.finishReason, promptIds: Int32Array.from(promptIds), completionIds: Int32Array.from(completionIds),
      logprobs: Float32Array.from(logprobs, (one) => one ?? NaN), mask: Uint8Array.from(mask),
    })
  })
  return (prompts, { step = 0, numGenerations = 1, onGroup }) => {
    const rest = steps.get(step)
    return Promise.resolve(prompts.flatMap((promptIds, prompt) => {
      const found = rest?.get(promptIds.join())?.splice(0, numGenerations) ?? []
      if (found.length < numGenerations) throw new ConfigError(`replay: ${path} has ${found.length} of the ${numGenerations} rollouts that step ${step} needs for prompt ${prompt}; replay with the data, seed and options of the run that wrote it`)
      const group = found.map((one, sample): Rollout => ({ ...one, prompt, sample }))
      onGroup?.(group)
      return group
    }))
  }
}

function parseLine(line: string, place: string): z.output<typeof lineSchema> {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch (error) {
    throw new FileFormatError(`${place}: expected a line of JSON that a run wrote as its rolloutLog: ${(error as Error).message}`, { cause: error })
  }
  const parsed = lineSchema.safeParse(value)
  if (!parsed.success) throw new FileFormatError(`${place}: ${parsed.error.issues[0]!.path.join('.')}: ${parsed.error.issues[0]!.message}; expected a line that a run wrote as its rolloutLog`)
  return parsed.data
}
