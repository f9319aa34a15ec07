// Proves that data is tokenized once, that an interrupted run goes on where it stopped with the same result, and that damage is repaired.
import { existsSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { ConfigError, DataError, DiskFullError } from '../../src/errors.ts'
import { nodeFileSystem, type FileSystem } from '../../src/files/filesystem.ts'
import { fingerprintOf, openCache, type CacheOptions } from '../../src/data/cache.ts'
import { openReader } from '../../src/data/readers/open.ts'
import { workerPath } from '../../src/data/workers.ts'
import { characters, temporaryFolder, write } from './support.ts'

const folder = temporaryFolder()
const rows = Array.from({ length: 9000 }, (_, i) => JSON.stringify({ prompt: `question ${i}`, completion: 'x'.repeat(i % 37) }))
const file = write(folder, 'train.jsonl', rows.join('\n'))
const notes = write(folder, 'notes.jsonl', '{"text":"one"}\n{"text":"two"}\n')

let caches = 0
const options = (more: Partial<CacheOptions> = {}): CacheOptions => ({
  directory: join(folder, `cache-${caches++}`), fingerprint: 'f', readers: [openReader(file), openReader(notes)], tokenization: characters(), options: { maxLength: 30 }, ...more,
})

/** The bytes of every shard. */
const contentOf = (directory: string): Record<string, string> =>
  Object.fromEntries(readdirSync(directory).sort().map((name) => [name, readFileSync(join(directory, name)).toString('base64')]))

const build = async (chosen: CacheOptions) => {
  const { dataset, stats, reused } = await openCache(chosen)
  const first = dataset.get(0)
  const { length } = dataset
  dataset.close()
  return { stats, reused, first, length, content: contentOf(chosen.directory) }
}

const reference = await build(options())
const shardCount = Object.keys(reference.content).length - 1

/** The worker's tokenizer, as a module that plain Node can load. */
const recipe = {
  module: pathToFileURL(write(folder, 'tokenizer.mjs', `
    export const make = (delay) => ({
      tokenizer: {
        bosTokenId: null, eosTokenId: 0, padTokenId: 0, vocabSize: 65536,
        encode: (text) => { for (const end = performance.now() + delay; performance.now() < end;); return Array.from(text, (_, i) => text.charCodeAt(i)) },
      },
    })
    export const broken = () => { throw new Error('no such tokenizer') }`)).href,
  factory: 'make', args: [0],
}

describe('openCache', () => {
  it('tokenizes once', async () => {
    const chosen = options()
    const progress: boolean[] = []
    await build({ ...chosen, onProgress: ({ reused }) => { progress.push(reused) } })
    expect(progress).toEqual(Array.from({ length: shardCount }, () => false))
    const tokenization = characters()
    const again = await build({ ...chosen, tokenization })
    expect(again).toMatchObject({ reused: true, stats: reference.stats, length: 9002 })
    expect(tokenization.tokenizer.encodings).toBe(0)
    expect(String.fromCharCode(...again.first.inputIds)).toBe('question 0\0')
  })

  it('is made anew for another fingerprint', async () => {
    const chosen = options()
    await build(chosen)
    expect((await build({ ...chosen, fingerprint: 'g' })).reused).toBe(false)
    expect((await build({ ...chosen, fingerprint: 'g' })).reused).toBe(true)
  })

  it('goes on after the k-th failed file operation, for every k, and ends with the same bytes', async () => {
    expect(shardCount).toBeGreaterThanOrEqual(3)
    const chosen = options()
    const tokenization = characters()
    let failures = 0
    for (let k = 1; ; k++) {
      let calls = 0
      const fail = <A extends unknown[], R>(call: (...args: A) => Promise<R>) => async (...args: A): Promise<R> => {
        if (++calls === k) throw Object.assign(new Error('no space left'), { code: 'ENOSPC' })
        return call(...args)
      }
      const fileSystem: FileSystem = {
        ...nodeFileSystem, rename: fail((from, to) => nodeFileSystem.rename(from, to)),
        open: fail(async (path, flags) => {
          const opened = await nodeFileSystem.open(path, flags)
          return { fd: opened.fd, read: opened.read.bind(opened), write: fail(opened.write.bind(opened)), sync: fail(opened.sync.bind(opened)), stat: opened.stat.bind(opened), close: opened.close.bind(opened) }
        }),
      }
      rmSync(join(chosen.directory, 'index.json'), { force: true })
      const result: unknown = await build({ ...chosen, tokenization, fileSystem }).catch((error: unknown) => error)
      if (!(result instanceof Error)) { expect(result).toMatchObject({ stats: reference.stats, content: reference.content }); break }
      failures++
      expect(result).toBeInstanceOf(DiskFullError)
      expect(readdirSync(chosen.directory).filter((name) => name.includes('.tmp'))).toEqual([])
      expect(existsSync(join(chosen.directory, 'index.json'))).toBe(false)
    }
    expect(failures).toBeGreaterThan(5)
  })

  it('makes a missing or damaged shard again and nothing before it', async () => {
    const chosen = options()
    await build(chosen)
    const last = join(chosen.directory, `shard-${String(shardCount - 1).padStart(6, '0')}.bin`)
    truncateSync(last, 100)
    const tokenization = characters()
    const again = await build({ ...chosen, tokenization })
    expect(again).toMatchObject({ reused: false, stats: reference.stats, content: reference.content })
    expect(tokenization.tokenizer.encodings).toBeLessThan(9000)
    writeFileSync(join(chosen.directory, 'index.json'), '{"version":')
    expect((await build(chosen)).content).toEqual(reference.content)
    rmSync(join(chosen.directory, 'shard-000000.bin'))
    expect((await build(chosen)).content).toEqual(reference.content)
  })

  it('names the malformed line, and counts it when it may be skipped', async () => {
    const bad = write(folder, 'bad.jsonl', '{"text":"a"}\n{"text":5}\n{broken\n{"text":"b"}\n')
    await expect(openCache(options({ readers: [openReader(bad)] }))).rejects.toThrow(/bad\.jsonl:3:2: expected a name in double quotes|bad\.jsonl:2: text: expected a string/)
    const { stats, length } = await build(options({ readers: [openReader(bad)], options: { onBadRow: 'skip' } }))
    expect({ length, ...stats }).toMatchObject({ length: 2, badRows: 2, rows: 2 })
  })

  it('stops at a row without trained tokens when asked', async () => {
    const long = write(folder, 'long.jsonl', `{"prompt":"a","completion":"b"}\n{"prompt":"${'p'.repeat(40)}","completion":"b"}\n`)
    const readers = [openReader(long)]
    await expect(openCache(options({ readers, options: { maxLength: 30, onEmptyMask: 'error' } }))).rejects.toThrow(/long\.jsonl:2: no token of the row is trained; raise maxLength/)
    expect((await build(options({ readers }))).stats).toMatchObject({ rows: 2, examples: 1, emptyMask: 1 })
  })

  it('leaves the event loop its turns', async () => {
    const tokenization = characters()
    tokenization.tokenizer.encode = (text) => { for (const end = performance.now() + 1; performance.now() < end;); return Array.from(text, (c) => c.charCodeAt(0)) }
    const many = write(folder, 'many.jsonl', Array.from({ length: 400 }, (_, i) => `{"text":"row ${i}"}`).join('\n'))
    let turns = 0
    const timer = setInterval(() => { turns++ }, 1)
    await build(options({ tokenization, readers: [openReader(many)] }))
    clearInterval(timer)
    expect(turns).toBeGreaterThan(10)
  })

  it('stops when aborted', async () => {
    const controller = new AbortController()
    const chosen = options({ signal: controller.signal, onProgress: () => { controller.abort() } })
    await expect(openCache(chosen)).rejects.toThrow(/abort/)
    const { signal: _, onProgress: _ignored, ...rest } = chosen
    expect((await build(rest)).content).toEqual(reference.content)
  })
})

describe('workers', () => {
  it('write the same shards as this thread', async () => {
    for (const workers of [1, 3]) expect((await build(options({ workers, recipe }))).content).toEqual(reference.content)
  })

  it('pass errors on with their class and place', async () => {
    const bad = write(folder, 'bad-worker.jsonl', '{"text":"a"}\n{"text":5}\n')
    const error: unknown = await openCache(options({ readers: [openReader(bad)], workers: 1, recipe })).catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(DataError)
    expect((error as Error).message).toContain('bad-worker.jsonl:2: text: expected a string')
    await expect(openCache(options({ workers: 2, recipe: { ...recipe, factory: 'broken' } }))).rejects.toThrow(/tokenizing worker: no such tokenizer/)
    await expect(openCache(options({ workers: 1, recipe: { ...recipe, factory: 'none' } }))).rejects.toThrow(/exports no none/)
    await expect(openCache(options({ workers: 1 }))).rejects.toThrow(/a tokenizer that workers can load/)
  })

  it('stop when aborted, and the next run goes on', async () => {
    const controller = new AbortController()
    const chosen = options({ workers: 2, recipe })
    await expect(openCache({ ...chosen, signal: controller.signal, onProgress: () => { controller.abort() } })).rejects.toThrow(/abort/)
    expect((await build(chosen)).content).toEqual(reference.content)
  })

  it('are looked for in dist when the sources run, with advice when it is missing', () => {
    expect(workerPath()).toMatch(/dist\/tokenizeWorker\.js$/)
    expect(() => workerPath('file:///nowhere/src/data/workers.ts')).toThrow(ConfigError)
    expect(() => workerPath('file:///nowhere/dist/data.js')).toThrow(/tokenizeWorker\.js is missing; run npm run build:ts, or set workers: 0/)
  })
})

describe('a killed process', () => {
  it('at any time leaves a cache that the next run completes, with the same bytes', async () => {
    const script = write(folder, 'process.mjs', `
      const { data, recipe, directory, files, workers } = JSON.parse(process.argv[2])
      const { openCache, openReader } = await import(data)
      const { make } = await import(recipe.module)
      process.send('ready')
      const readers = files.map((file) => openReader(file))
      await openCache({ directory, fingerprint: 'f', readers, tokenization: make(...recipe.args), options: { maxLength: 30 }, workers, recipe })
      process.disconnect()`)
    const data = new URL('../../src/data/index.ts', import.meta.url).href
    for (let round = 0; round < 4; round++) {
      const chosen = options({ workers: round % 2 })
      const setup = { data, recipe: { ...recipe, args: [0.05] }, directory: chosen.directory, files: [file, notes], workers: round % 2 }
      const child = fork(script, [JSON.stringify(setup)], { stdio: 'ignore', execArgv: ['--import', 'tsx'] })
      const ended = once(child, 'exit')
      await once(child, 'message')
      await new Promise((resolve) => { setTimeout(resolve, 300 + 200 * round) })
      child.kill('SIGKILL')
      await ended
      expect((await build({ ...chosen, workers: 0 })).content).toEqual(reference.content)
    }
  })
})

describe('fingerprintOf', () => {
  it('does not depend on the order of keys or on what is undefined, but on every value', () => {
    expect(fingerprintOf({ a: 1, b: { c: [1, 2], d: undefined } })).toBe(fingerprintOf({ b: { c: [1, 2] }, a: 1 }))
    expect(fingerprintOf({ a: [1, 2] })).not.toBe(fingerprintOf({ a: [2, 1] }))
  })
})
