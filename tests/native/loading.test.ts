// Proves that a missing or unusable addon is explained, and that the environment variables do what they say.
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { run } from './run.ts'

test('ANNEAL_ADDON that points nowhere', () => {
  const { status, stderr } = run('', { env: { ANNEAL_ADDON: '/nowhere/anneal.node' } })
  expect(status).toBe(1)
  expect(stderr).toContain(`anneal's native addon could not be loaded on ${process.platform}-${process.arch} with Node ${process.version}`)
  expect(stderr).toContain('ANNEAL_ADDON=/nowhere/anneal.node: Cannot find module')
  expect(stderr).toContain('ERR_ADDON')
})

test('a package without a build says where it looked and how to build', () => {
  const folder = mkdtempSync(join(tmpdir(), 'anneal-'))
  try {
    cpSync(fileURLToPath(new URL('../../lib', import.meta.url)), join(folder, 'lib'), { recursive: true })
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', `await import(${JSON.stringify(join(folder, 'lib/index.js'))})`], {
      encoding: 'utf8', env: { ...process.env, ANNEAL_ADDON: '' },
    })
    expect(status).toBe(1)
    for (const part of [`package @anneal/${process.platform}-${process.arch}`, `local build in ${join(folder, 'build')}`, 'npm rebuild anneal', 'apt-get install g++ cmake make', 'npm run build:gyp']) {
      expect(stderr).toContain(part)
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
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
