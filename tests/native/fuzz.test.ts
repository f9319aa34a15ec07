// Proves that no arguments whatever crash the addon: every call either works or throws a typed error, at once or at the fence.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const script = fileURLToPath(new URL('fuzz.ts', import.meta.url))
const calls = 6000

test.each([1, 2, 3, 4])('6,000 calls of seed %d', (seed) => {
  const isa = seed % 2 ? {} : { ANNEAL_ISA: 'baseline' }
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', script, String(seed), String(calls)], { encoding: 'utf8', env: { ...process.env, ...isa } })
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  const result = JSON.parse(stdout) as { calls: number; done: number; refused: number; missing: string[]; never: string[]; leaked: number; problems: string[] }
  expect(result).toMatchObject({ calls, missing: [], never: [], leaked: 0, problems: [] })
  // Both outcomes must be common, or the fuzzer tests little.
  expect(result.done).toBeGreaterThan(calls / 5)
  expect(result.refused).toBeGreaterThan(calls / 5)
})
