// Proves that the latest whole checkpoint is always found, whatever failed or was killed while saving, and that rotation keeps the right ones.
import { spawn, spawnSync } from 'node:child_process'
import { appendFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { AnnealError, ConfigError, DiskFullError, FileFormatError, LockedError } from '../../src/errors.ts'
import { latestCheckpoint, listCheckpoints, rotateCheckpoints, saveCheckpoint, verifyCheckpoint, type SaveCheckpointOptions } from '../../src/files/checkpoints.ts'
import { nodeFileSystem } from '../../src/files/filesystem.ts'
import { replaceFile } from '../../src/files/atomic.ts'
import { failingFileSystem, temporaryFolder } from './helpers.ts'

const save = (folder: string, step: number, options: SaveCheckpointOptions = {}) =>
  saveCheckpoint(folder, step, (to) => replaceFile(join(to, 'state.json'), `{"step":${step}}`, { fileSystem: options.fileSystem ?? nodeFileSystem }), options)

const stepsIn = async (folder: string) => (await listCheckpoints(folder)).map(({ step }) => step)

describe('saving and finding', () => {
  it('finds nothing where nothing is', async () => {
    const folder = temporaryFolder()
    expect(await latestCheckpoint(folder)).toBeUndefined()
    expect(await latestCheckpoint(join(folder, 'missing'))).toBeUndefined()
  })

  it('finds the newest by number, not by name', async () => {
    const folder = join(temporaryFolder(), 'run')
    for (const step of [9, 100, 10]) await save(folder, step)
    for (const name of ['checkpoint-', 'checkpoint-1x', 'checkpoint-007', 'runs', 'checkpoint-5.backup']) mkdirSync(join(folder, name))
    writeFileSync(join(folder, 'checkpoint-999'), 'a file')
    expect(await stepsIn(folder)).toEqual([9, 10, 100])
    expect(await latestCheckpoint(folder)).toEqual({ path: join(folder, 'checkpoint-100'), step: 100 })
  })

  it('passes over damaged ones and says so', async () => {
    const folder = temporaryFolder()
    for (const step of [1, 2, 3, 4]) await save(folder, step)
    appendFileSync(join(folder, 'checkpoint-4', 'state.json'), ' ')
    rmSync(join(folder, 'checkpoint-3', 'manifest.json'))
    const skipped: [number, string][] = []
    expect((await latestCheckpoint(folder, ({ step }, reason) => skipped.push([step, reason.message])))?.step).toBe(2)
    expect(skipped.map(([step]) => step)).toEqual([4, 3])
    expect(skipped[0]![1]).toMatch(/checkpoint-4.state\.json: expected 10 bytes, got 11/)
    expect(skipped[1]![1]).toMatch(/manifest\.json: missing; the directory was not written to its end/)
    await expect(verifyCheckpoint(join(folder, 'checkpoint-4'))).rejects.toThrow(FileFormatError)
  })

  it('saves a step again over itself', async () => {
    const folder = temporaryFolder()
    await save(folder, 1)
    await saveCheckpoint(folder, 1, (to) => replaceFile(join(to, 'state.json'), 'again'))
    expect(readFileSync(join(folder, 'checkpoint-1', 'state.json'), 'utf8')).toBe('again')
    expect(readdirSync(folder)).toEqual(['checkpoint-1'])
  })

  it('leaves a save under way alone', async () => {
    const folder = temporaryFolder()
    const slow = saveCheckpoint(folder, 1, async (to) => {
      await save(folder, 2)
      expect((await latestCheckpoint(folder))?.step).toBe(2)
      await expect(save(folder, 1)).rejects.toThrow(LockedError)
      await replaceFile(join(to, 'state.json'), 'slow')
    })
    await slow
    expect(await stepsIn(folder)).toEqual([1, 2])
    await verifyCheckpoint(join(folder, 'checkpoint-1'))
  })

  it.each([-1, 1.5, NaN])('refuses step %d', async (step) => { await expect(save(temporaryFolder(), step)).rejects.toThrow(ConfigError) })
})

describe('rotation', () => {
  it.each([
    [1, undefined, [5]], [2, undefined, [4, 5]], [9, undefined, [1, 2, 3, 4, 5]],
    [1, 2, [2, 5]], [2, 2, [2, 5]], [3, 2, [2, 4, 5]], [2, 5, [4, 5]], [2, 77, [4, 5]],
  ])('with limit %i and best %s keeps %j, as transformers does', async (saveTotalLimit, best, kept) => {
    const folder = temporaryFolder()
    for (const step of [1, 2, 3, 4]) await save(folder, step)
    await save(folder, 5, { saveTotalLimit, ...(best === undefined ? {} : { bestCheckpoint: join(folder, `checkpoint-${best}`) }) })
    expect(await stepsIn(folder)).toEqual(kept)
  })

  it('never removes what was just saved, even with a lower step', async () => {
    const folder = temporaryFolder()
    await save(folder, 8)
    await save(folder, 3, { saveTotalLimit: 1 })
    expect(await stepsIn(folder)).toEqual([3])
  })

  it('warns, and keeps the save, when an old one cannot be removed', async () => {
    const folder = temporaryFolder()
    await save(folder, 1)
    const warnings: string[] = []
    const fileSystem = { ...nodeFileSystem, rename: (from: string, to: string) => (from.endsWith('checkpoint-1') ? Promise.reject(Object.assign(new Error('EACCES'), { code: 'EACCES' })) : nodeFileSystem.rename(from, to)) }
    await save(folder, 2, { saveTotalLimit: 1, fileSystem, onWarning: (message) => warnings.push(message) })
    expect(await stepsIn(folder)).toEqual([1, 2])
    expect(warnings).toEqual([expect.stringMatching(/could not be removed: EACCES; remove it by hand/)])
  })

  it('refuses a limit of 0', async () => { await expect(rotateCheckpoints(temporaryFolder(), { saveTotalLimit: 0 })).rejects.toThrow(/saveTotalLimit: expected a whole number from 1, got 0/) })
})

describe('failures while saving', () => {
  it.each(['ENOSPC', 'EIO', 'EACCES'])('%s at any operation: the previous checkpoint loads, the next save works', async (errno) => {
    for (let k = 1; ; k++) {
      const folder = temporaryFolder()
      await save(folder, 1)
      const fileSystem = failingFileSystem(k, errno)
      const error = await save(folder, 2, { fileSystem, saveTotalLimit: 1, bytesNeeded: 100 }).catch((e: unknown) => e)
      if (error instanceof Error) {
        expect(error).toBeInstanceOf(errno === 'ENOSPC' ? DiskFullError : AnnealError)
        expect([1, 2]).toContain((await latestCheckpoint(folder))?.step)
      } else expect((await latestCheckpoint(folder))?.step).toBe(2)
      await save(folder, 3, { saveTotalLimit: 1 })
      expect(readdirSync(folder)).toEqual(['checkpoint-3'])
      if (fileSystem.failed === undefined) break
      expect(k).toBeLessThan(200)
    }
  })

  it('a process killed at 20 times never leaves a checkpoint that does not load', async () => {
    const folder = temporaryFolder()
    const script = join(import.meta.dirname, 'saver.ts')
    const tsx = import.meta.resolve('tsx')
    let [before, killedInside] = [0, 0]
    for (let i = 0; i < 20; i++) {
      const child = spawn(process.execPath, ['--import', tsx, script, folder], { stdio: ['ignore', 'pipe', 'inherit'] })
      const ended = new Promise((resolve) => child.on('exit', resolve))
      await new Promise((resolve) => child.stdout.once('data', resolve))
      await sleep((i * 37) % 131)
      child.kill('SIGKILL')
      await ended
      if (readdirSync(folder).some((name) => name.includes('.tmp-') || name.includes('.old-'))) killedInside++
      const skipped: string[] = []
      const latest = await latestCheckpoint(folder, ({ path }) => skipped.push(path))
      expect(skipped).toEqual([])
      expect(latest?.step ?? 0).toBeGreaterThanOrEqual(before)
      before = latest?.step ?? 0
    }
    expect(before).toBeGreaterThan(5)
    expect(killedInside).toBeGreaterThan(3)
    // 20 starts of Node, each of a second and more on a busy machine.
  }, 180_000)

  it('a real refusal of the system, too large a file, is a DiskFullError and leaves nothing behind', async () => {
    const folder = temporaryFolder()
    await save(folder, 7)
    const child = spawnSync('sh', ['-c', 'ulimit -f 100; exec "$0" --import "$1" "$2" "$3"', process.execPath, import.meta.resolve('tsx'), join(import.meta.dirname, 'saver.ts'), folder], { encoding: 'utf8' })
    expect(child.stderr).toMatch(/DiskFullError: .*checkpoint-8.*: the file is larger than the system allows/)
    expect(readdirSync(folder)).toEqual(['checkpoint-7'])
    expect((await latestCheckpoint(folder))?.step).toBe(7)
  })
})
