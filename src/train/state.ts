import { join } from 'node:path'
import { z } from 'zod'
import { ConfigError, FileFormatError } from '../errors.ts'
import { readJsonObject, replaceFile } from '../files/index.ts'
import { lazily } from '../options.ts'
import { meterState } from './meter.ts'

const stateName = 'trainer_state.json'

const schema = lazily(() => z.strictObject({
  version: z.literal(1),
  method: z.string(),
  /** Optimizer steps done. */
  step: z.int().min(0),
  totalSteps: z.int().min(1),
  meter: meterState,
  /** The best evaluation so far. */
  best: z.strictObject({ metric: z.number(), step: z.int() }).nullable(),
  evaluationsWithoutImprovement: z.int().min(0),
  /** The evaluation of this step was stopped, or not begun; what resumes begins with it. */
  evaluationDue: z.boolean().default(false),
  learningRate: z.unknown(),
  dataFingerprint: z.string(),
  /** The options that decide the numbers; a resumed run must have the same. */
  decisive: z.record(z.string(), z.unknown()),
}))

/** Everything of a run that is not a tensor. Data order and dropout are functions of seed and step, so their position is the step. */
export type TrainerState = z.output<typeof schema>

export function writeState(folder: string, state: TrainerState): Promise<void> {
  const json = JSON.stringify(state, (_, value: unknown) => (typeof value === 'number' && !Number.isFinite(value) ? String(value) : value), 2)
  return replaceFile(join(folder, stateName), `${json}\n`)
}

export async function readState(folder: string): Promise<TrainerState> {
  const path = join(folder, stateName)
  const parsed = schema.safeParse(await readJsonObject(path))
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw new FileFormatError(`${path}: ${issue.path.join('.')}: ${issue.message}; this is not a checkpoint of this version of anneal`)
  }
  return parsed.data
}

/** Refuses to go on with options or data that would make another run of it. */
export function checkResumable(folder: string, saved: TrainerState, now: Pick<TrainerState, 'method' | 'dataFingerprint' | 'decisive' | 'totalSteps'>): void {
  if (saved.method !== now.method) throw new ConfigError(`${folder}: the checkpoint is of a ${saved.method} run, not ${now.method}`)
  for (const [name, value] of Object.entries(now.decisive)) {
    // An option that is newer than the checkpoint.
    if (!(name in saved.decisive)) continue
    const before = saved.decisive[name]
    if (JSON.stringify(before) !== JSON.stringify(value)) {
      throw new ConfigError(`${name}: the checkpoint ${folder} was trained with ${JSON.stringify(before)}, not ${JSON.stringify(value)}; resume with the same, or start a new run from its weights`)
    }
  }
  if (saved.dataFingerprint !== now.dataFingerprint) throw new ConfigError(`the data changed since the checkpoint ${folder} was made; resume with the same data, or start a new run from its weights`)
  if (saved.totalSteps !== now.totalSteps) {
    throw new ConfigError(`maxSteps, numTrainEpochs: the checkpoint ${folder} is of a run of ${saved.totalSteps} steps, not ${now.totalSteps}, so its learning rates would differ; resume with the same, or start a new run from its weights`)
  }
}
