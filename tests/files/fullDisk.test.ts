// Proves that a disk that takes no more is a DiskFullError that names the file and its size, whatever is being saved, and that nothing half-written stays.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { temporaryFolder } from './helpers.ts'

const script = fileURLToPath(new URL('fullDisk.ts', import.meta.url))

/** What the script prints where no file may have more than `blocks` times 512 bytes: the system's writes then fail in the middle. */
function saveAll(folder: string, blocks: number | 'unlimited'): Record<string, string> {
  const { stdout, stderr } = spawnSync('/bin/sh', ['-c', `ulimit -f ${blocks} && exec "$0" "$@"`, process.execPath, '--import', 'tsx', script, folder], { encoding: 'utf8' })
  expect(stderr).toBe('')
  return JSON.parse(stdout.replaceAll(/\.tmp-\d+/g, '.tmp-0')) as Record<string, string>
}

/** The bytes of every file below a folder. */
const filesOf = (folder: string): Map<string, string> => new Map(readdirSync(folder, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name)).sort().map((path) => [relative(folder, path), readFileSync(path, 'base64')]))

test.runIf(process.platform !== 'win32')('models, checkpoints, GGUF files, tokenizers and caches', () => {
  const folder = temporaryFolder()
  for (const name of ['model', 'checkpoint', 'gguf', 'tokenizer', 'cache']) mkdirSync(join(folder, name))
  writeFileSync(join(folder, 'cache', 'rows.jsonl'), Array.from({ length: 400 }, (_, i) => JSON.stringify({ text: `row ${i} `.repeat(30) })).join('\n'))
  const before = filesOf(folder)
  const failed = saveAll(folder, 20)
  for (const [what, file] of Object.entries({ model: 'model.safetensors', checkpoint: 'model.safetensors', gguf: 'model.gguf', tokenizer: 'tokenizer.json', cache: 'shard-000000.bin' })) {
    expect(failed[what], what).toMatch(new RegExp(`^DiskFullError: \\S*/${what}/\\S*${file}: .* needed\\); free space or choose another output directory\\. What was saved before is intact$`))
  }
  expect(filesOf(folder)).toEqual(before)
  expect(new Set(Object.values(saveAll(folder, 'unlimited')))).toEqual(new Set(['saved']))
  const saved = filesOf(folder)
  expect(saved.size).toBeGreaterThan(before.size + 8)
  // What is there outlives a save that fails. The cache is whole, so nothing is written to it.
  expect(saveAll(folder, 20)).toEqual({ ...failed, cache: 'saved' })
  expect(filesOf(folder)).toEqual(saved)
})
