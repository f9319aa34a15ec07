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
/** As many rows as fill a GPU, which then read the weights once for several of them; and a vocabulary as models have it. */
const manyRows: Sizes = { ...sizes, tokens: 8192 }
const largeVocabulary: Sizes = { ...sizes, logitRows: 4, vocabulary: 32768 }
/** Rows that are longer than registers hold are read again from the cache. */
const wideRows: Sizes = { ...sizes, tokens: 16, width: 9216 }

const norms = ['rms_norm with residual', 'rms_norm backward', 'layer_norm', 'layer_norm backward']
const streaming: { sizes: Sizes, names: string[], bounds?: Record<string, number> }[] = [
  { sizes, names: [
    'rope', 'rope_pair', 'activation', 'activation backward', 'gated_activation', 'gated_activation backward', 'embedding', 'embedding backward', 'gather_rows', 'dropout', 'transpose', 'softmax',
    'softmax backward', 'adamw', 'adamw_8bit', 'sum_squares', 'convert f32 to bf16',
  ] },
  { sizes: manyRows, names: norms },
  { sizes: largeVocabulary, names: ['cross_entropy', 'cross_entropy backward', 'selective_log_softmax', 'selective_log_softmax backward', 'softmax', 'softmax backward'], bounds: { softmax: 1.5, 'softmax backward': 1.67 } },
  { sizes: wideRows, names: norms, bounds: { 'rms_norm with residual': 1.76, 'rms_norm backward': 3.16, layer_norm: 3.01, 'layer_norm backward': 5.41 } },
]

async function bytesSoFar(): Promise<number> {
  await simt.fence()
  const { kernels } = JSON.parse(readFileSync(file, 'utf8')) as { kernels: { globalBytes: number }[] }
  return kernels.reduce((total, { globalBytes }) => total + globalBytes, 0)
}

test('bytes over the least', { timeout: 300_000 }, async () => {
  const ratios: { name: string, ratio: number, bound: number }[] = []
  for (const { sizes, names, bounds = {} } of streaming) {
    const cases = new Map(kernelCases(sizes).map((kernel) => [kernel.name, kernel]))
    for (const name of names) {
      const kernel = cases.get(name) ?? expect.fail(`cuda:check has no ${name}`)
      const make = new Maker(simt)
      const call = kernel.setup(make)
      const before = await bytesSoFar()
      call()
      ratios.push({ name, ratio: (await bytesSoFar() - before) / kernel.bytes, bound: bounds[name] ?? 1.1 })
      make.dispose()
    }
  }
  expect(ratios.filter(({ ratio, bound }) => ratio > bound)).toEqual([])
  expect(ratios.filter(({ ratio }) => ratio < 0.9)).toEqual([])
})
