// Proves that `npm run cuda:check` runs to its end on the emulator at tiny sizes, with a figure for every kernel and step, and that the page has the floors
// that it prints. What it says of speed here means nothing.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'
import { kernelCases, llama8b, tiny } from '../../bench/cuda/kernels.ts'
import { floorTable } from '../../bench/cuda/roofline.ts'
import { native } from '../../lib/index.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'anneal-check-'))
afterAll(() => { rmSync(folder, { recursive: true }) })

test('every kernel and step has its figures', { timeout: 300_000 }, () => {
  const file = join(folder, 'figures.json')
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'node_modules/tsx/dist/cli.mjs'), 'bench/cuda/main.ts', '--device', 'simt', '--no-build', '--no-tests', '--json', file], { cwd: root, encoding: 'utf8' })
  expect([status, stderr], stdout).toEqual([0, ''])
  const { name, figures } = JSON.parse(readFileSync(file, 'utf8')) as { name: string, figures: { kernel?: string, name?: string, seconds: number }[] }
  expect(name).toBe('emulator')
  expect(figures.map((figure) => figure.kernel ?? figure.name)).toEqual([...kernelCases(tiny).map((kernel) => kernel.name), 'tiny, training', 'tiny, LoRA', 'tiny, QLoRA', 'tiny, GRPO', 'tiny, decoding'])
  expect(figures.filter(({ seconds }) => !(seconds > 0))).toEqual([])
  expect(stdout).not.toContain('failed')
})

test('every kernel that computes something is timed', () => {
  // What only copies or fills, and what is too small to take time of its own.
  const others = new Set([
    'fill', 'iota', 'add_into', 'scale', 'unary', 'where', 'slice', 'slice_into', 'gather_last', 'scatter_add_last', 'sum_rows', 'scatter_rows', 'random_uniform', 'attention_plan', 'clip_factor',
  ])
  for (const [, absent] of readFileSync(join(root, 'native/cuda/absent.def'), 'utf8').matchAll(/^ABSENT\((\w+),/gm)) others.add(absent!)
  const timed = readFileSync(join(root, 'bench/cuda/kernels.ts'), 'utf8')
  expect(Object.keys(native.signatures).filter((kernel) => !others.has(kernel) && !timed.includes(`kernels.${kernel}(`))).toEqual([])
})

test('the page has the floors', () => {
  expect(readFileSync(join(root, 'docs/cuda.md'), 'utf8')).toContain(floorTable(kernelCases(llama8b)).join('\n'))
})
