// Proves that kernels bound by memory move little more than they must: on aligned shapes, the bytes that their instructions read and write in device memory, by the
// count of the instrumented build, over the least that cuda:check states.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { kernelCases, Maker } from '../../bench/cuda/kernels.ts'
import type { Sizes } from '../../bench/cuda/kernels.ts'
import { cpu, device, setDefaultDevice } from '../../src/tensor/index.ts'

const folder = mkdtempSync(join(tmpdir(), 'anneal-traffic-'))
const file = join(folder, 'profile.json')
Object.assign(process.env, { ANNEAL_SIMT_LIBRARY: fileURLToPath(new URL('../../build-simt/anneal-simt-race.so', import.meta.url)), ANNEAL_SIMT_RACE: '0', ANNEAL_SIMT_PROFILE: file })
setDefaultDevice(cpu)
const simt = device('simt')
afterAll(() => { rmSync(folder, { recursive: true }) })

const sizes: Sizes = { tokens: 64, width: 512, ffn: 256, heads: 16, kvHeads: 4, headDim: 64, vocabulary: 2048, logitRows: 16, sequences: 2, cached: 64, parameters: 65536 }

/** 1.1 where nothing is said. Above it lies what is read again from a cache, as each row does with the weights and each group of heads with the angles. */
const bounds: Record<string, number> = {
  'rms_norm with residual': 1.26, layer_norm: 2.01, 'rms_norm backward': 1.57, 'layer_norm backward': 2.17, rope: 1.54, rope_pair: 1.43,
  // A row number of 4 bytes for each thread.
  embedding: 1.13,
  // A row is read for its sum and again for the result.
  softmax: 1.5, 'softmax backward': 1.67,
  // The label, the gradient and the entropy of a row, for each of its threads.
  'selective_log_softmax backward': 1.13,
}
const streaming = [
  'rms_norm with residual', 'rms_norm backward', 'layer_norm', 'layer_norm backward', 'rope', 'rope_pair', 'activation', 'activation backward', 'gated_activation', 'gated_activation backward', 'embedding',
  'dropout', 'transpose', 'softmax', 'softmax backward', 'cross_entropy', 'cross_entropy backward', 'selective_log_softmax', 'selective_log_softmax backward', 'adamw', 'adamw_8bit', 'sum_squares', 'convert f32 to bf16',
]

async function bytesSoFar(): Promise<number> {
  await simt.fence()
  const { kernels } = JSON.parse(readFileSync(file, 'utf8')) as { kernels: { globalBytes: number }[] }
  return kernels.reduce((total, { globalBytes }) => total + globalBytes, 0)
}

test('bytes over the least', { timeout: 300_000 }, async () => {
  const cases = new Map(kernelCases(sizes).map((kernel) => [kernel.name, kernel]))
  const ratios: [string, number][] = []
  for (const name of streaming) {
    const kernel = cases.get(name) ?? expect.fail(`cuda:check has no ${name}`)
    const make = new Maker(simt)
    const call = kernel.setup(make)
    const before = await bytesSoFar()
    call()
    ratios.push([name, (await bytesSoFar() - before) / kernel.bytes])
    make.dispose()
  }
  expect(ratios.filter(([name, ratio]) => ratio > (bounds[name] ?? 1.1))).toEqual([])
  expect(ratios.filter(([, ratio]) => ratio < 0.9)).toEqual([])
})
