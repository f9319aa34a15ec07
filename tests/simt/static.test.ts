// Proves that the machine code of the CUDA kernels keeps the rules of scripts/cuda-rules.js and the numbers recorded for it, and that the reports of the
// compiler and the disassembler are read rightly. The first part needs nvcc; what it compiles is kept in build-simt/.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

interface Kernel { threads: number; registers: number; shared: number; blocks: number; tensor: number; wide: number; narrow: number; [key: string]: unknown }
const root = fileURLToPath(new URL('../..', import.meta.url))
const load = (path: string): Promise<unknown> => import(path)
const { describeFile, violations } = await load(`${root}scripts/cuda-static.js`) as {
  describeFile: (compiled: { arch: string; ptx: string; log: string }, disassembly?: string) => Record<string, Kernel>
  violations: (arch: string, name: string, kernel: Kernel, recorded?: Kernel) => string[]
}
const { findCompiler } = await load(`${root}scripts/cuda-compile.js`) as { findCompiler: () => string | undefined }

const recorded = (name: string): string => readFileSync(`${root}tests/recorded/cuda/${name}`, 'utf8')
const ptx = '.visible .entry _ZN6anneal4cuda14product_kernelIfEEvPfPK5uint4i(\n\t.param .u64 p\n)\n.maxntid 128, 1, 1\n{\n}\n.visible .entry _ZN6anneal4cuda14indexed_kernelEPdPKi(\n\t.param .u64 p\n)\n{\n}\n'
const sample = (disassembly?: string): Record<string, Kernel> => describeFile({ arch: 'sm_80', ptx, log: recorded('sample.ptxas') }, disassembly)

test('what ptxas and the disassembler say of two small kernels', () => {
  expect(sample(recorded('sample.sass'))).toEqual({
    'product_kernel<float>': { threads: 128, registers: 18, shared: 2048, stack: 0, spills: 0, blocks: 16, tensor: 1, local: 0, wide: 1, narrow: 1, async: 0, asyncNarrow: 0, double: 0, calls: 0, loop: [11, 8, 8, 16] },
    indexed_kernel: { threads: 1024, registers: 32, shared: 0, stack: 64, spills: 0, blocks: 2, tensor: 0, local: 10, wide: 0, narrow: 11, async: 0, asyncNarrow: 0, double: expect.any(Number) as number, calls: 1, loop: [] },
  })
  expect(sample()['product_kernel<float>']).toEqual({ threads: 128, registers: 18, shared: 2048, stack: 0, spills: 0, blocks: 16 })
})

describe('violations', () => {
  const kernels = sample(recorded('sample.sass'))
  const product = kernels['product_kernel<float>']!

  test('of the rules', () => {
    expect(violations('sm_80', 'indexed_kernel', kernels.indexed_kernel!)).toEqual([
      'sm_80: indexed_kernel needs a stack of 64 bytes',
      'sm_80: indexed_kernel has 10 accesses of local memory',
      expect.stringMatching(/^sm_80: indexed_kernel has \d+ instructions of FP64$/),
    ])
    expect(violations('sm_80', 'gemm_half_kernel<float>', { ...product, tensor: 0 })).toEqual(['sm_80: gemm_half_kernel<float> has no tensor instructions'])
  })

  test('but for what is allowed, on one architecture and up to a number', () => {
    const name = 'attention_forward_kernel<ForwardShape<256, 64, 64, 4> >'
    const spilling = { ...product, stack: 32, spills: 72, local: 9 }
    expect(violations('sm_120', name, spilling)).toEqual([])
    expect(violations('sm_120', name, { ...spilling, spills: 88 })).toEqual([`sm_120: ${name} spills 88 bytes of registers`])
    expect(violations('sm_86', name, spilling).length).toBe(3)
    expect(violations('sm_120', 'attention_forward_kernel<ForwardShape<128, 128, 64, 4> >', spilling).length).toBe(3)
  })

  test('of what was recorded', () => {
    expect(violations('sm_80', 'product_kernel<float>', product, { ...product, registers: 16 })).toEqual([])
    expect(violations('sm_80', 'product_kernel<float>', product, { ...product, registers: 13, tensor: 2, blocks: 32, wide: 2, narrow: 0 })).toEqual([
      expect.stringMatching(/has 18 registers where 13 are recorded; if that is meant, say why/),
      expect.stringMatching(/lets 16 blocks run at once where 32 are recorded/),
      expect.stringMatching(/has 1 tensor instructions where 2 are recorded/),
      expect.stringMatching(/has 1 global accesses of 16 bytes and 1 narrower ones where 2 and 0 are recorded/),
    ])
  })
})

test('the kernels of native/cuda', { timeout: 600_000 }, () => {
  if (!findCompiler()) console.log('static.test: nvcc is missing; the kernels\' machine code is not checked')
  const { status, stderr } = spawnSync(process.execPath, ['scripts/cuda-static.js', '--check'], { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26 })
  expect(stderr).toBe('')
  expect(status).toBe(0)
})
