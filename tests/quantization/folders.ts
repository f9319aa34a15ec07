import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll } from 'vitest'
import type { CausalLanguageModel } from '../../src/models/index.ts'
import { QuantizedLinear } from '../../src/nn/index.ts'
import { openCheckpoint, writeSafetensors, type SafetensorsDtype } from '../../src/files/index.ts'
import { unsynced } from '../files/unsynced.ts'

export type Entry = { dtype: SafetensorsDtype, shape: readonly number[], bytes: Uint8Array }

/** Temporary folders for one test file, and models that are released after each test. */
export function workplace() {
  let root = ''
  let count = 0
  const live: { dispose(): void }[] = []
  unsynced()
  beforeAll(async () => { root = await mkdtemp(join(tmpdir(), 'anneal-quantization-')) })
  afterAll(() => rm(root, { recursive: true, force: true }))
  afterEach(() => { for (const one of live.splice(0)) one.dispose() })
  return {
    kept: <T extends { dispose(): void }>(one: T): T => { live.push(one); return one },
    newFolder: (): string => join(root, `m${count++}`),
  }
}

/** The tensors of a model folder, with their bytes. */
export async function readAll(folder: string): Promise<Map<string, Entry>> {
  const weights = await openCheckpoint(folder)
  const tensors = new Map<string, Entry>()
  for (const [name, { dtype, shape }] of weights.tensors) tensors.set(name, { dtype, shape, bytes: await weights.readTensorBytes(name) })
  await weights.close()
  return tensors
}

/** Copies a model folder with some of its tensors changed. */
export async function edited(from: string, to: string, edit: (tensors: Map<string, Entry>) => void): Promise<string> {
  await mkdir(to)
  await copyFile(join(from, 'config.json'), join(to, 'config.json'))
  const tensors = await readAll(from)
  edit(tensors)
  await writeSafetensors(join(to, 'model.safetensors'), [...tensors].map(([name, entry]) => ({ name, ...entry })))
  return to
}

/** The quantised layer of that name. */
export function quantizedLayer(model: CausalLanguageModel, name: string): QuantizedLinear {
  const layer = model.getModule(name)
  if (!(layer instanceof QuantizedLinear)) throw new Error(`${name} is not quantised`)
  return layer
}
