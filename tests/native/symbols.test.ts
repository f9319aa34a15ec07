// Proves that no code compiled for one instruction set can be linked into another: the kernel objects export the kernels and nothing that merges.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const folder = fileURLToPath(new URL('../../build/CMakeFiles', import.meta.url))
const isas = Object.keys(JSON.parse(readFileSync(new URL('../../native/isas.json', import.meta.url), 'utf8')) as object)
const built = existsSync(folder) ? isas.filter((isa) => existsSync(`${folder}/kernels_${isa}.dir/native/cpu`)) : []

// Without object files, as in an installed package, there is nothing to look at.
describe.each(built.map((isa) => ({ isa })))('$isa', ({ isa }) => {
  const objects = readdirSync(`${folder}/kernels_${isa}.dir/native/cpu`).filter((name) => name.endsWith('.o'))
  test.each(objects)('%s', (object) => {
    const symbols = execFileSync('nm', ['-C', '--defined-only', `${folder}/kernels_${isa}.dir/native/cpu/${object}`], { encoding: 'utf8' }).trim().split('\n').map((line) => /^\S+ (\S) (.+)$/.exec(line)!.slice(1) as [string, string])
    // W, V and u are merged by the linker; T, D, B and R are seen by it.
    expect(symbols.filter(([kind]) => 'WVuvwi'.includes(kind))).toEqual([])
    expect(symbols.filter(([kind, name]) => kind === kind.toUpperCase() && !name.startsWith(`anneal::cpu::${isa}::`))).toEqual([])
  })
})
