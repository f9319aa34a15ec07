// Proves that everything anneal exports is documented, and that the reference made from the doc comments holds all of it.
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import * as anneal from '../../src/index.ts'

const root = join(import.meta.dirname, '../..')
const { exportsOfAnneal } = await import(pathToFileURL(join(root, 'scripts/api.js')).href) as { exportsOfAnneal: () => { name: string, path: string, doc?: string }[] }
const { apiPages } = await import(pathToFileURL(join(root, 'scripts/generate-api-doc.js')).href) as { apiPages: () => Record<string, string> }
const all = exportsOfAnneal()

test('every value that anneal exports is found in the sources', () => {
  expect(all.map(({ name }) => name)).toEqual(expect.arrayContaining(Object.keys(anneal)))
})

test('every export has a doc comment', () => {
  expect(all.filter(({ doc }) => !doc || doc.length < 8).map(({ name, path }) => `${name} of src/${path}: write /** what it is, shapes, dtypes, units, errors */ above it`)).toEqual([])
})

test('the reference has an entry for each, and a line of code in it', () => {
  const pages = apiPages()
  const entries = Object.entries(pages).filter(([name]) => name !== 'README.md').flatMap(([, text]) => [...text.matchAll(/^### (\S+)\n\n```ts\n(.+)\n/gm)].map(([, name, code]) => ({ name, code })))
  expect(entries.map(({ name }) => name).sort()).toEqual(all.map(({ name }) => name).sort())
  for (const { name, code } of entries) expect(code).toContain(name)
  expect(pages['ops.md']).toContain('function rmsNorm(')
  for (const { name } of all) expect(pages['README.md']).toContain(`[${name}](`)
})
