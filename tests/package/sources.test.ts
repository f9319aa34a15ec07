// Proves that node-gyp builds what cmake builds: the same sources, instruction sets and definitions.
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const root = join(import.meta.dirname, '../..')
const read = (file: string): string => readFileSync(join(root, file), 'utf8')
const sources = createRequire(import.meta.url)(join(root, 'scripts/native-sources.cjs')) as { addon: string, kernels: string, interface: string, flags: (isa: string) => string }
const isas = JSON.parse(read('native/isas.json')) as Record<string, string[]>
const [gyp, cmake] = [read('binding.gyp'), read('CMakeLists.txt')]

test('every file of the folders is built once', () => {
  const files = ['native/cpu', 'native/addon', 'native/checks'].flatMap((folder) => readdirSync(join(root, folder)).filter((name) => name.endsWith('.cc')).map((name) => `${folder}/${name}`))
  expect([...sources.kernels.split(' '), ...sources.addon.split(' ')].sort()).toEqual([...files, 'native/failure.cc'].sort())
  const machine = [...cmake.matchAll(/\$\{CMAKE_SOURCE_DIR\}\/(native\/cpu\/\w+\.cc)/g)].map(([, file]) => file!)
  expect(machine).toHaveLength(2)
  for (const file of machine) expect(sources.addon.split(' ')).toContain(file)
})

test.each(Object.keys(isas))('%s is a target with its flags, and the dispatcher knows it', (isa) => {
  expect(gyp).toContain(`'target_name': 'kernels_${isa}'`)
  expect(gyp).toContain(`'ANNEAL_ISA=${isa}'`)
  expect(gyp).toContain(`'ANNEAL_HAS_${isa.toUpperCase()}'`)
  expect(sources.flags(isa)).toBe(isas[isa]!.join(' '))
  if (isas[isa]!.length > 0) expect(gyp).toContain(`flags(\\'${isa}\\')`)
})

test('the addon is compiled with the same definitions and asks device libraries for the same interface', () => {
  const [, definitions] = /target_compile_definitions\(anneal PRIVATE ([^)]*)\)/.exec(cmake)!
  for (const one of definitions!.split(' ')) expect(gyp).toContain(one.split('=')[0])
  const [, files] = /foreach\(file (native\/kernels\.def [^)]*)\)/.exec(cmake)!
  expect(read('scripts/native-sources.cjs')).toContain(files!.split(' ').map((file) => `'${file.replace('native/', '')}'`).join(', '))
  expect(sources.interface).toMatch(/^[0-9a-f]{32}$/)
})
