// Proves that sharded checkpoints are split, named and indexed as Hugging Face does, and that a broken or hostile index is refused.
import { mkdirSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ConfigError, FileFormatError } from '../../src/errors.ts'
import { openCheckpoint, parseSize, refusePickle, splitIntoShards, writeCheckpoint } from '../../src/files/shards.ts'
import type { TensorSource } from '../../src/files/safetensors-writer.ts'
import { pattern, recorded, temporaryFolder } from './helpers.ts'

const { shards } = recorded('files') as { shards: { sizes: [string, number][], limit: string | number, files: Record<string, string[]>, index: string | null }[] }

const sourcesOf = (sizes: [string, number][]): TensorSource[] => sizes.map(([name, size], seed) => ({ name, dtype: 'U8', shape: [size], bytes: pattern(size, seed) }))

const threeShards: [string, number][] = [['a', 900], ['b', 900], ['c', 900]]

async function written(sizes = threeShards): Promise<string> {
  const folder = temporaryFolder()
  await writeCheckpoint(folder, sourcesOf(sizes), { maxShardSize: '1KB' })
  return folder
}

const index = 'model.safetensors.index.json'

function remap(folder: string, change: (map: Record<string, unknown>) => void): void {
  const value = JSON.parse(readFileSync(join(folder, index), 'utf8')) as { weight_map: Record<string, unknown> }
  change(value.weight_map)
  writeFileSync(join(folder, index), JSON.stringify(value))
}

describe('writing', () => {
  it.each(shards.map((record, i) => [i, record] as const))('splits record %i as huggingface_hub, and writes the same index', async (_, { sizes, limit, files, index: text }) => {
    expect(Object.fromEntries(splitIntoShards(sourcesOf(sizes), 'model', parseSize(limit)).map((shard) => [shard.fileName, shard.tensors.map((t) => t.name)]))).toEqual(files)
    const folder = temporaryFolder()
    const names = await writeCheckpoint(folder, sourcesOf(sizes), { maxShardSize: limit })
    expect(names.sort()).toEqual([...Object.keys(files), ...(text === null ? [] : [index])].sort())
    if (text !== null) expect(readFileSync(join(folder, index), 'utf8')).toBe(text)
    await using weights = await openCheckpoint(folder)
    for (const [seed, [name, size]] of sizes.entries()) expect(await weights.readTensorBytes(name)).toEqual(pattern(size, seed))
    expect(weights.tensors.size).toBe(sizes.length)
  })

  it('removes the files of an earlier save, and nothing else', async () => {
    const folder = await written()
    for (const name of ['config.json', 'adapter_model.safetensors', 'other.safetensors']) writeFileSync(join(folder, name), '')
    await writeCheckpoint(folder, sourcesOf([['a', 10]]))
    expect(readdirSync(folder).sort()).toEqual(['adapter_model.safetensors', 'config.json', 'model.safetensors', 'other.safetensors'])
    await writeCheckpoint(folder, sourcesOf(threeShards), { maxShardSize: 1000 })
    expect(readdirSync(folder)).not.toContain('model.safetensors')
  })

  it.each([['5GB', 5e9], ['1.5 kb', 1500], [123, 123], ['2TB', 2e12], ['7MB', 7e6]])('takes %s for a size', (size, bytes) => { expect(parseSize(size)).toBe(bytes) })
  it.each(['5', '5GiB', '', 0, -1, 1.5, 'GB', '0MB'])('refuses %j for a size', (size) => { expect(() => parseSize(size)).toThrow(ConfigError) })
})

describe('reading', () => {
  it('reads a single file, links of a cache included', async () => {
    const root = temporaryFolder()
    await writeCheckpoint(join(root, 'blobs'), sourcesOf([['a', 10]]))
    mkdirSync(join(root, 'snapshots', '1'), { recursive: true })
    symlinkSync('../../blobs/model.safetensors', join(root, 'snapshots', '1', 'model.safetensors'))
    await using weights = await openCheckpoint(join(root, 'snapshots', '1'))
    expect(await weights.readTensorBytes('a')).toEqual(pattern(10, 0))
    expect(() => weights.entry('aa')).toThrow(/no tensor "aa" in the checkpoint; did you mean "a"\?/)
  })

  it('reads adapters by their own name', async () => {
    const folder = temporaryFolder()
    await writeCheckpoint(folder, sourcesOf([['a', 10]]), { baseName: 'adapter_model' })
    await expect(openCheckpoint(folder)).rejects.toThrow(/expected model\.safetensors or model\.safetensors\.index\.json, got neither/)
    await using weights = await openCheckpoint(folder, { baseName: 'adapter_model' })
    expect([...weights.tensors.keys()]).toEqual(['a'])
  })

  it.each<[string, (folder: string) => void, RegExp]>([
    ['a missing shard', (f) => { rmSync(join(f, 'model-00002-of-00003.safetensors')) }, /model-00002-of-00003\.safetensors: missing shard, named in .*index\.json/],
    ['a name that leaves the folder', (f) => { remap(f, (map) => { map.b = '../../x.safetensors' }) }, /index\.json: the file name "\.\.\/\.\.\/x\.safetensors" is refused: it leaves the folder/],
    ['an absolute name', (f) => { remap(f, (map) => { map.b = '/etc/passwd' }) }, /absolute path/],
    ['a Windows name', (f) => { remap(f, (map) => { map.b = 'C:\\x.safetensors' }) }, /refused|missing/],
    ['a shard that is a link out', (f) => {
      const shard = join(f, 'model-00002-of-00003.safetensors')
      rmSync(shard)
      symlinkSync('/etc/hostname', shard)
    }, /is a link that leaves the folder/],
    ['a tensor the shard lacks', (f) => { remap(f, (map) => { map.bb = 'model-00002-of-00003.safetensors' }) }, /expected tensor "bb", as .*index\.json says, got none; did you mean "b"\?/],
    ['a name that is no string', (f) => { remap(f, (map) => { map.b = 5 }) }, /weight_map\.b: expected a file name, got 5/],
    ['no weight_map', (f) => { writeFileSync(join(f, index), '{}') }, /weight_map: expected an object/],
    ['an index that is a list', (f) => { writeFileSync(join(f, index), '[]') }, /expected a JSON object, got an array/],
    ['an index cut short', (f) => { writeFileSync(join(f, index), '{"weight_map": {') }, /index\.json:1:17: expected a name/],
    ['a pickle as a shard', (f) => { remap(f, (map) => { map.b = 'pytorch_model-00001-of-00002.bin' }) }, /got a Python pickle, which can run code when read; convert it/],
    ['a damaged shard', (f) => { writeFileSync(join(f, 'model-00003-of-00003.safetensors'), 'short') }, /model-00003-of-00003\.safetensors: expected at least 8 bytes/],
  ])('refuses %s', async (_, damage, message) => {
    const folder = await written()
    damage(folder)
    await expect(openCheckpoint(folder)).rejects.toThrow(FileFormatError)
    await expect(openCheckpoint(folder)).rejects.toThrow(message)
  })

  it.each(['pytorch_model.bin', 'model.pt', 'consolidated.00.pth', 'model.ckpt'])('refuses a folder with only %s and tells how to convert', async (name) => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, name), '')
    await expect(openCheckpoint(folder)).rejects.toThrow(/Python pickle, which can run code when read; convert it where you trust it: python -c/)
    expect(() => { refusePickle(name) }).toThrow(FileFormatError)
  })

  it('names a GGUF file it does not read', async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, 'model.gguf'), '')
    await expect(openCheckpoint(folder)).rejects.toThrow(/model\.gguf is a GGUF file/)
  })
})
