// Proves the emulator itself: right kernels run without complaint in every order, and each kind of mistake is found by the check that is there for it.
// The kernels are in kernels.h; they are compiled against build-simt/anneal-simt.so (npm run build:simt) and, instrumented, against anneal-simt-race.so.
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'anneal-simt-'))
const execute = promisify(execFile)

interface Site { site: string; space: 'shared' | 'global'; access: 'read' | 'write'; requests: number; ratio: number }
interface Kernel { kernel: string; launches: number; blocks: number; threads: number; ldmatrix: number; mma: number; asyncBytes: number; sites: Site[] }

async function compile(name: string, library: string, flags: string[]): Promise<void> {
  await execute(process.env.CXX ?? 'g++', [
    '-x', 'c++', '-std=c++20', '-DANNEAL_SIMT', '-fno-strict-aliasing', '-Wno-unknown-pragmas', ...flags, `-I${root}native/simt`, '-c', `${root}tests/simt/emulator.cu`, '-o', join(folder, `${name}.o`),
  ])
  // The kernels' names must be among the dynamic symbols for the emulator to tell them.
  await execute(process.env.CXX ?? 'g++', ['-rdynamic', join(folder, `${name}.o`), `${root}build-simt/${library}`, `-Wl,-rpath,${root}build-simt`, '-o', join(folder, name)])
}

async function run(name: string, env: Record<string, string> = {}): Promise<Map<string, string>> {
  const { stdout } = await execute(join(folder, name), { env: { ...process.env, ...env } })
  return new Map(stdout.trimEnd().split('\n').map((line) => [line.slice(0, line.indexOf(': ')), line.slice(line.indexOf(': ') + 2)]))
}

beforeAll(async () => {
  await Promise.all([
    compile('plain', 'anneal-simt.so', ['-O2']),
    compile('race', 'anneal-simt-race.so', ['-DANNEAL_SIMT_HOOKS', '-O1', '-g1', '-gdwarf-4', '-fsanitize=thread', '--param=tsan-instrument-func-entry-exit=0']),
  ])
})
afterAll(() => { rmSync(folder, { recursive: true }) })

const right = [
  'sums of rows', 'reversed rows', 'product', 'hand over', 'counts', 'early exit', 'functions',
  'transpose, conflicts', 'transpose, padded', 'scatter', 'gather', 'matrices, conflicts', 'matrices, swizzled',
]

describe.each(['plain', 'race'])('right kernels (%s)', (build) => {
  test.each([
    { ANNEAL_SIMT_ORDER: 'ascending' }, { ANNEAL_SIMT_ORDER: 'descending' }, { ANNEAL_SIMT_ORDER: 'ascending', ANNEAL_SIMT_MMA: 'truncate', ANNEAL_SIMT_THREADS: '1' },
    ...[1, 2, 3].map((seed) => ({ ANNEAL_SIMT_ORDER: 'random', ANNEAL_SIMT_SEED: `${seed}` })),
  ])('%o', async (env) => {
    const found = await run(build, env)
    expect(right.map((name) => [name, found.get(name)])).toEqual(right.map((name) => [name, 'ok']))
  })
})

// What every build finds, in whatever order threads run.
const always: Record<string, RegExp> = {
  'write beyond': /^(in write_beyond_kernel: )?out-of-bounds: .*write_beyond_kernel|^in write_beyond_kernel: out-of-bounds: write of 4 bytes/,
  'write beyond shared': /^in write_beyond_shared_kernel: out-of-bounds: .*offset 256 of/,
  'divergent shuffle': /^in divergent_shuffle_kernel: divergence: lane \d+ of warp 0 is at __shfl_xor_sync kernels\.h:\d+ .* while lanes \w+ wait at __shfl_xor_sync kernels\.h:\d+/,
  'absent lane': /^in absent_lane_kernel: divergence: a shuffle: lane \d+ reads lane 20, which does not take part/,
  'divergent barrier': /^in divergent_barrier_kernel: divergence: block 0: thread \d+ is at __syncthreads kernels\.h:\d+, while \d+ threads wait at __syncthreads kernels\.h:\d+/,
  deadlock: /^in deadlock_kernel: deadlock: block 0: 32 threads wait for ever: 32 at named_barrier kernels\.h:\d+/,
  'misaligned copy': /^in misaligned_copy_kernel: misaligned: cp\.async from kernels\.h:\d+: address ends in 4/,
  'misaligned load': /^in misaligned_load_kernel: misaligned: load kernels\.h:\d+: address ends in 8/,
  'missing wait': /^in missing_wait_kernel: cp\.async: /,
  'wild pointer': /^in wild_pointer_kernel: out-of-bounds: /,
  'endless stack': /^in endless_stack_kernel: out-of-bounds: block 0: (the stack of thread 0 overflows|thread 0 touches)/,
  'too many threads': /^in blocks_race_kernel: launch: 2048 threads in a block/,
  'too large a grid': /^in blocks_race_kernel: launch: a grid of 1 × 70000 × 1/,
  'too much shared memory': /^in blocks_race_kernel: launch: 307200 bytes of shared memory/,
}
// What needs every access to be seen, with the lines of both sides.
const instrumented: Record<string, RegExp> = {
  'missing barrier': /(race|uninitialised): read at kernels\.h:\d+/,
  'missing syncwarp': /race: read at kernels\.h:\d+ by block 0, thread \d+ is not ordered after the write at kernels\.h:\d+/,
  'weak wait': /^in sum_rows_kernel<2>: cp\.async: read at kernels\.h:\d+ of shared memory before the copy at kernels\.h:\d+ has arrived/,
  'reused too early': /^in reverse_rows_kernel<false>: race: /,
  'blocks race': /^in blocks_race_kernel: race: write at kernels\.h:\d+ by block \d+, thread 0 is not ordered after the write at kernels\.h:\d+ by block \d+/,
  'read beyond': /^in read_beyond_kernel: out-of-bounds: read of 4 bytes at kernels\.h:\d+ at offset 80 of a 80-byte buffer/,
  uninitialised: /^in uninitialised_kernel: uninitialised: read at kernels\.h:\d+ of shared memory that nothing has written, at offset 252 of 256/,
}

describe('wrong kernels', () => {
  test.each([['plain', 'ascending'], ['plain', 'random'], ['race', 'ascending'], ['race', 'descending'], ['race', 'random']])('%s build, %s order', async (build, order) => {
    const found = await run(build, { ANNEAL_SIMT_ORDER: order })
    for (const [name, message] of Object.entries({ ...always, ...build === 'race' ? instrumented : {} })) expect(found.get(name), name).toMatch(message)
    expect(found.get('wrong fragment')).toBe('wrong numbers')
  })
  test('a wait that is too weak gives wrong numbers even in the friendliest order', async () => {
    const found = await run('plain', { ANNEAL_SIMT_ORDER: 'ascending' })
    for (const name of ['missing barrier', 'weak wait', 'uninitialised', 'read beyond']) expect(found.get(name), name).toBe('wrong numbers')
  })
})

test('the profile shows bank conflicts, scattered accesses and instructions', async () => {
  const file = join(folder, 'profile.json')
  await run('race', { ANNEAL_SIMT_PROFILE: file, ANNEAL_SIMT_RACE: '0' })
  const { kernels } = JSON.parse(readFileSync(file, 'utf8')) as { kernels: Kernel[] }
  const kernel = (name: string): Kernel => kernels.find((each) => each.kernel === name) ?? expect.fail(`${name} is not in the profile`)
  const worst = (name: string, space: Site['space']): number => Math.max(...kernel(name).sites.filter((site) => site.space === space).map((site) => site.ratio))
  expect(worst('transpose_kernel<32>', 'shared')).toBe(32)
  expect(worst('transpose_kernel<33>', 'shared')).toBe(1)
  expect(worst('load_matrix_kernel<false>', 'shared')).toBe(8)
  expect(worst('load_matrix_kernel<true>', 'shared')).toBe(1)
  expect(worst('scatter_kernel<16>', 'global')).toBe(8)
  expect(worst('scatter_kernel<1>', 'global')).toBe(1)
  expect(kernel('product_kernel<true>')).toMatchObject({ launches: 1, blocks: 1, threads: 32, ldmatrix: 2, mma: 1 })
  expect(kernel('load_matrix_kernel<true>')).toMatchObject({ ldmatrix: 8, asyncBytes: 4096 })
  expect(kernel('transpose_kernel<32>').sites.every(({ site }) => /^kernels\.h:\d+$/.test(site))).toBe(true)
})

test('launches fail where the environment asks for it, and mistyped settings end the process', async () => {
  const found = await run('plain', { ANNEAL_SIMT_FAIL_LAUNCH: '2' })
  expect(found.get('reversed rows')).toBe('in reverse_rows_kernel<true>: ANNEAL_SIMT_FAIL_LAUNCH wants this launch to fail')
  expect(found.get('product')).toBe('ok')
  await expect(run('plain', { ANNEAL_SIMT_ORDER: 'backwards' })).rejects.toThrow(/ANNEAL_SIMT_ORDER=backwards is none of ascending, descending, random/)
  await expect(run('plain', { ANNEAL_SIMT_SEED: 'one' })).rejects.toThrow(/ANNEAL_SIMT_SEED=one is not a whole number/)
})
