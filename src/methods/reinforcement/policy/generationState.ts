import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { FileFormatError } from '../../../errors.ts'
import { replaceFile } from '../../../files/index.ts'
import { lazily } from '../../../options.ts'
import type { Generation } from './generation.ts'
import type { TrainedRollout } from './batch.ts'

const generationsName = 'rollouts.json'

/** JSON has no NaN and no infinity. */
const number = lazily(() => z.union([z.number(), z.enum(['NaN', 'Infinity', '-Infinity']).transform(Number)]))
const bytes = lazily(() => z.base64())

const rolloutSchema = lazily(() => z.strictObject({
  prompt: z.int(), sample: z.int(), promptIds: bytes, completionIds: bytes, text: z.string(), logprobs: bytes, mask: bytes,
  finishReason: z.enum(['stop', 'length', 'stopString', 'aborted']), advantage: number, counted: bytes, old: bytes.nullable(), reference: bytes.nullable(), weights: bytes.nullable().default(null),
}))
const schema = lazily(() => z.strictObject({
  version: z.literal(1),
  generations: z.array(z.strictObject({
    index: z.int(), rollouts: z.array(rolloutSchema), metrics: z.record(z.string(), number),
    samples: z.array(z.object({ prompt: z.string(), text: z.string(), rewards: z.record(z.string(), z.number().nullable()).default({}) })), warnings: z.array(z.string()),
  })),
}))

const toText = (values: Int32Array | Float32Array | Uint8Array): string => Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64')
/** A copy of its own, so that it is aligned. */
const fromText = (text: string): ArrayBuffer => Uint8Array.from(Buffer.from(text, 'base64')).buffer

const stored = ({ rollout, advantage, counted, old, reference, weights }: TrainedRollout): z.input<typeof rolloutSchema> => ({
  ...rollout, promptIds: toText(rollout.promptIds), completionIds: toText(rollout.completionIds), logprobs: toText(rollout.logprobs), mask: toText(rollout.mask),
  advantage, counted: toText(counted), old: old && toText(old), reference: reference && toText(reference), weights: weights && toText(weights),
})

function restored({ advantage, counted, old, reference, weights, ...rollout }: z.output<typeof rolloutSchema>): TrainedRollout {
  return {
    rollout: {
      ...rollout, promptIds: new Int32Array(fromText(rollout.promptIds)), completionIds: new Int32Array(fromText(rollout.completionIds)),
      logprobs: new Float32Array(fromText(rollout.logprobs)), mask: new Uint8Array(fromText(rollout.mask)),
    },
    advantage, counted: new Uint8Array(fromText(counted)), old: old === null ? null : new Float32Array(fromText(old)), reference: reference === null ? null : new Float32Array(fromText(reference)),
    weights: weights === null ? null : new Float32Array(fromText(weights)),
  }
}

/** Writes what is under way into a checkpoint, so that a run that stops between two updates on the same rollouts goes on with them, to the bit. */
export function writeGenerations(folder: string, generations: readonly Generation[]): Promise<void> {
  const json = { version: 1, generations: generations.map((one) => ({ ...one, rollouts: one.rollouts.map(stored) })) }
  return replaceFile(join(folder, generationsName), JSON.stringify(json, (_, value: unknown) => typeof value === 'number' && !Number.isFinite(value) ? String(value) : value))
}

/** Reads them back; none where the folder has no such file. */
export async function readGenerations(folder: string): Promise<Generation[]> {
  const path = join(folder, generationsName)
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
  const parsed = schema.safeParse(JSON.parse(text))
  if (!parsed.success) throw new FileFormatError(`${path}: ${parsed.error.issues[0]!.path.join('.')}: ${parsed.error.issues[0]!.message}; this is not a checkpoint of this version of anneal`)
  return parsed.data.generations.map((one) => ({ ...one, rollouts: one.rollouts.map(restored) }))
}
