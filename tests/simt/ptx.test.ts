// Proves that the PTX which nvcc makes of kernels, interpreted, gives the results of the same kernels under the emulator bit for bit, and that the
// interpreter finds what the emulator finds. Needs nvcc.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))
const library = join(root, 'build-simt/anneal-simt.so')
const source = join(root, 'tests/simt/ptx.cu')
const present = spawnSync('nvcc', ['--version'], { stdio: 'ignore' }).status === 0 && existsSync(library)
if (!present) console.log('ptx.test: nvcc or build-simt/anneal-simt.so is missing; the interpreter of PTX is not tested')

const folder = mkdtempSync(join(tmpdir(), 'anneal-ptx-'))
afterAll(() => { rmSync(folder, { recursive: true }) })

function run(command: string, args: string[], env: Record<string, string> = {}): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: root, encoding: 'utf8', env: { ...process.env, ...env } })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}`)
  return stdout
}
function results(ptx?: string): Record<string, string> {
  const lines = run(join(folder, 'kernels'), [], ptx ? { ANNEAL_SIMT_PTX: ptx } : {}).trim().split('\n')
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]))
}

describe.runIf(present)('kernels as PTX', () => {
  let host: Record<string, string>
  let interpreted: Record<string, string>
  beforeAll(() => {
    mkdirSync(join(folder, 'ptx'))
    run('nvcc', ['-std=c++20', '-O3', '-arch=sm_90', '--expt-relaxed-constexpr', '-ptx', source, '-o', join(folder, 'ptx/kernels.ptx')])
    run('c++', ['-x', 'c++', '-std=c++20', '-O1', '-DANNEAL_SIMT', '-Inative/simt', '-Wno-unknown-pragmas', '-rdynamic', source, '-x', 'none', library, `-Wl,-rpath,${join(root, 'build-simt')}`, '-o', join(folder, 'kernels')])
    host = results()
    interpreted = results(join(folder, 'ptx'))
  }, 300_000)

  test.each(['bits', 'convert', 'diverge', 'multiply', 'double'])('%s: the same bits', (name) => {
    expect(interpreted[name]).toMatch(/^[0-9a-f ]+$/)
    expect(interpreted[name]).toBe(host[name])
  })

  test('__byte_perm takes three bits of a selector, prmt four', () => {
    const words = interpreted.bits!.split(' ')
    const both = Array.from({ length: 64 }, (_, i) => [words[8 * i], words[8 * i + 1]])
    expect(both.some(([masked, whole]) => masked !== whole)).toBe(true)
  })

  test('products and fragments are those of the PTX manual', () => {
    expect(interpreted.layout).toBe('0 wrong')
    expect(host.layout).toBe('0 wrong')
  })

  test.each([
    ['outside', /ptx: kernels\.ptx:\d+: st\.global\.\w+ .*: 4 bytes at .* in block \(0, 0, 0\), thread \d+/],
    ['misaligned', /st\.global\.v4\.\w+ .* is not aligned to 16 bytes/],
    ['unwaited', /ends before its cp\.async has been waited for/],
    ['half_warp', /mma\.sync.* needs all 32 lanes, but only 0000ffff are there/],
    ['stuck', /deadlock: 32 threads of block \(0, 0, 0\) wait at bar\.sync/],
  ])('%s: an error that names the instruction', (name, message) => {
    expect(interpreted[name]).toMatch(message)
  })

  test('an entry or an instruction that it does not know is named', () => {
    const other = join(folder, 'other')
    mkdirSync(other)
    writeFileSync(join(other, 'other.ptx'), '.version 8.0\n.target sm_80\n.address_size 64\n.visible .entry _ZN6anneal4cuda11bits_kernelEPjPKj(.param .u64 a, .param .u64 b)\n{\n  .reg .b32 %r<2>;\n  frobnicate.u32 %r1, %r0;\n  ret;\n}\n')
    const found = results(other)
    expect(found.bits).toMatch(/other\.ptx:7: frobnicate\.u32 %r1, %r0;: the instruction frobnicate\.u32 is not known/)
    expect(found.convert).toMatch(/no \.ptx file of .* has the entry _ZN6anneal4cuda14convert_kernelEPjPKf/)
  })
})
