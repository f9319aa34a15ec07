import { join } from 'node:path'
import { z } from 'zod'
import { FileFormatError } from '../../../errors.ts'
import { readJsonObject, replaceFile } from '../../../files/index.ts'
import { lazily } from '../../../options.ts'
import type { PpoRow } from './batch.ts'

const fileName = 'ppo_state.json'

const packed = lazily(() => z.base64())
const rowSchema = lazily(() => z.strictObject({ ids: packed, promptLength: z.int().min(1), mask: packed, logprobs: packed, advantages: packed, values: packed, returns: packed }))
const schema = lazily(() => z.strictObject({
  version: z.literal(1),
  /** Number of the last rollout, from 0. */
  rollout: z.int().min(0),
  /** Weight of the KL penalty for the next one. */
  klCoefficient: z.number(),
  metrics: z.record(z.string(), z.number()),
  rows: z.array(rowSchema),
}))

/** What of a run is neither weights nor a function of seed and step: the answers that are being learnt from, and the KL penalty's weight. */
export interface PpoState { rollout: number; klCoefficient: number; metrics: Record<string, number>; rows: PpoRow[] }

const pack = ({ buffer, byteOffset, byteLength }: Float32Array | Int32Array | Uint8Array): string => Buffer.from(buffer, byteOffset, byteLength).toString('base64')
const bytes = (text: string): Uint8Array<ArrayBuffer> => Uint8Array.from(Buffer.from(text, 'base64'))
const floats = (text: string): Float32Array => new Float32Array(bytes(text).buffer)

/** Writes ppo_state.json into a checkpoint. */
export async function writePpoState(folder: string, { rollout, klCoefficient, metrics, rows }: PpoState): Promise<void> {
  const stored: z.input<typeof schema> = {
    version: 1, rollout, klCoefficient, metrics,
    rows: rows.map(({ ids, promptLength, mask, logprobs, advantages, values, returns }) => ({
      ids: pack(ids), promptLength, mask: pack(mask), logprobs: pack(logprobs), advantages: pack(advantages), values: pack(values), returns: pack(returns),
    })),
  }
  await replaceFile(join(folder, fileName), JSON.stringify(stored))
}

export async function readPpoState(folder: string): Promise<PpoState> {
  const path = join(folder, fileName)
  const parsed = schema.safeParse(await readJsonObject(path))
  if (!parsed.success) throw new FileFormatError(`${path}: ${parsed.error.issues[0]!.path.join('.')}: ${parsed.error.issues[0]!.message}; this is not a checkpoint of this version of anneal`)
  const { rollout, klCoefficient, metrics, rows } = parsed.data
  return {
    rollout, klCoefficient, metrics,
    rows: rows.map((row) => ({
      ids: new Int32Array(bytes(row.ids).buffer), promptLength: row.promptLength, mask: bytes(row.mask), logprobs: floats(row.logprobs),
      advantages: floats(row.advantages), values: floats(row.values), returns: floats(row.returns),
    })),
  }
}
