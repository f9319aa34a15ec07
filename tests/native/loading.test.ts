// Proves that a missing or unusable addon is explained, with its cause and what to do, and that the environment variables do what they say.
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { spawnSync } from 'node:child_process'
import { afterAll, describe, expect, test } from 'vitest'
import { platformPackage } from '../../lib/load.js'
import { run } from './run.ts'

test('ANNEAL_ADDON that points nowhere', () => {
  const { status, stderr } = run('', { env: { ANNEAL_ADDON: '/nowhere/anneal.node' } })
  expect(status).toBe(1)
  expect(stderr).toContain(`anneal's native addon could not be loaded on ${process.platform}-${process.arch} with Node ${process.version}`)
  expect(stderr).toContain('ANNEAL_ADDON=/nowhere/anneal.node: Cannot find module')
  expect(stderr).toContain('ERR_ADDON')
})

describe('a copy of the package', () => {
  const folder = mkdtempSync(join(tmpdir(), 'anneal-'))
  const built = fileURLToPath(new URL('../../build/Release/anneal.node', import.meta.url))
  const copy = join(folder, 'build/Release/anneal.node')
  cpSync(fileURLToPath(new URL('../../lib', import.meta.url)), join(folder, 'lib'), { recursive: true })
  mkdirSync(join(folder, 'build/Release'), { recursive: true })
  afterAll(() => { rmSync(folder, { recursive: true }) })

  /** What importing it says with this file as its addon. */
  function load(addon?: Buffer): { status: number | null, stderr: string } {
    rmSync(copy, { force: true })
    if (addon) writeFileSync(copy, addon)
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', `await import(${JSON.stringify(join(folder, 'lib/index.js'))}).catch((error) => { console.error(error.name, error.code, error.message); process.exit(3) })`], {
      encoding: 'utf8', env: { ...process.env, ANNEAL_ADDON: '' },
    })
    return { status, stderr }
  }
  /** The addon with other bytes of the same length in place of a text. */
  function patched(from: string, to: string): Buffer {
    const bytes = readFileSync(built)
    const at = bytes.indexOf(`\0${from}\0`, 0, 'latin1')
    expect(at).toBeGreaterThan(0)
    bytes.write(to, at + 1, 'latin1')
    return bytes
  }
  const failure = { status: 3 }
  const isElf = process.platform === 'linux'

  test('works with a sound addon', () => {
    expect(load(readFileSync(built))).toEqual({ status: 0, stderr: '' })
  })

  test('without one says where it looked, how to build and which package to install', () => {
    const { status, stderr } = load()
    expect({ status }).toEqual(failure)
    for (const part of ['AddonError ERR_ADDON', `package ${platformPackage}: it is not installed`, `local build in ${join(folder, 'build')}: there is none`, 'npm rebuild anneal', 'apt-get install g++ cmake make', 'npm run build:gyp', '--omit=optional']) {
      expect(stderr).toContain(part)
    }
  })

  test('made for another processor names both', () => {
    const other = process.arch === 'arm64' ? { name: 'x64', machine: 62 } : { name: 'arm64', machine: 183 }
    const bytes = Buffer.alloc(64)
    bytes.write('\x7fELF\x02\x01\x01', 0, 'latin1')
    bytes.writeUInt16LE(3, 16)
    bytes.writeUInt16LE(other.machine, 18)
    const { status, stderr } = load(bytes)
    expect({ status }).toEqual(failure)
    expect(stderr).toContain(`is built for linux-${other.name}, this is Node for ${process.platform}-${process.arch}`)
    expect(stderr).toContain('instead of copying node_modules')
  })

  test.runIf(isElf)('made for a newer C library names both versions', () => {
    const { status, stderr } = load(patched('GLIBC_2.34', 'GLIBC_9.99'))
    expect({ status }).toEqual(failure)
    expect(stderr).toMatch(/needs GLIBC_9\.99, this system has glibc \d/)
    expect(stderr).toContain('build it for this system')
  })

  test.runIf(isElf)('that needs what this Node has not names the symbol', () => {
    const { status, stderr } = load(patched('napi_create_function', 'napi_create_Function'))
    expect({ status }).toEqual(failure)
    expect(stderr).toContain(`needs napi_create_Function, which this Node ${process.version} does not have`)
  })

  test.runIf(isElf)('cut off is called damaged', () => {
    const { status, stderr } = load(readFileSync(built).subarray(0, 40))
    expect({ status }).toEqual(failure)
    expect(stderr).toContain('is damaged: ')
  })

  test('made from other sources names the first kernel that differs', () => {
    const list = join(folder, 'lib/signatures.js')
    const text = readFileSync(list, 'utf8')
    try {
      writeFileSync(list, text.replace("fill: '(Out y, double value)'", "fill: '(Out y, double number)'"))
      const other = load(readFileSync(built))
      expect(other).toMatchObject({ status: 3 })
      expect(other.stderr).toContain('AddonError ERR_ADDON')
      expect(other.stderr).toContain('does not fit this version of anneal')
      expect(other.stderr).toContain('has fill(Out y, double value) where fill(Out y, double number) is expected')
      writeFileSync(list, text.replace('signatures = {', "signatures = {\n  later: '(Out y)',"))
      expect(load(readFileSync(built)).stderr).toContain('has no kernel later(Out y)')
    } finally {
      writeFileSync(list, text)
    }
  })
})

test('ANNEAL_ISA of an unknown name', () => {
  const { status, stderr } = run('', { env: { ANNEAL_ISA: 'avx9' } })
  expect(status).toBe(1)
  expect(stderr).toContain('ANNEAL_ISA=avx9: this machine cannot run that instruction set')
})

test('ANNEAL_ISA and ANNEAL_THREADS choose', () => {
  const { status, stdout } = run('await multiply(native); const { isa, isas, threads } = native.info(); console.log(isa, threads, isas.at(-1))', { env: { ANNEAL_ISA: 'baseline', ANNEAL_THREADS: '3' } })
  expect({ status, stdout }).toEqual({ status: 0, stdout: 'baseline 3 baseline\n' })
})

test('senseless ANNEAL_THREADS mean the default', () => {
  const threads = (value: string): string => run('console.log(native.info().threads)', { env: { ANNEAL_THREADS: value } }).stdout
  expect(['0', '-3', 'many'].map(threads)).toEqual(Array(3).fill(threads('')))
})

test('the system refusing threads is an error, not a crash', () => {
  const { status, signal, stdout } = run(`
    native.setThreads(900)
    const failed = await native.fence(0).then(() => false, (error) => error.code)
    native.setThreads(1)
    await native.fence(0)
    await multiply(native)
    console.log(failed === false || failed === 'ERR_KERNEL')
  `, { env: { ANNEAL_THREADS: '1' } })
  expect({ status, signal, stdout }).toEqual({ status: 0, signal: null, stdout: 'true\n' })
})
