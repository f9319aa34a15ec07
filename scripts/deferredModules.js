// A plugin of the bundle: an async function that an index.ts exports is loaded when it is first called, for most of a program's time is not spent importing.
// It applies to a module of which an index.ts exports nothing but async functions; declarations and sources know nothing of it.
import { readFileSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { parseAst } from 'rolldown/parseAst'

const suffix = '?deferred'
const programOf = (file) => parseAst(readFileSync(file, 'utf8'), { lang: 'ts' })

/** The async functions that a module declares and exports: whether each is a generator, by name. */
function asyncFunctionsOf(file) {
  const declared = programOf(file).body.map((statement) => statement.type === 'ExportNamedDeclaration' ? statement.declaration : undefined)
  return new Map(declared.filter((one) => one?.type === 'FunctionDeclaration' && one.async).map(({ id, generator }) => [id.name, generator]))
}

/** What an index.ts exports of modules, by file: names of values only. */
function reexportsOf(file) {
  const exported = new Map()
  for (const { type, source, exportKind, specifiers } of programOf(file).body) {
    if (type !== 'ExportNamedDeclaration' || !source || exportKind === 'type') continue
    const from = resolve(dirname(file), source.value)
    exported.set(from, [...exported.get(from) ?? [], ...specifiers.filter((one) => one.exportKind !== 'type').map(({ local }) => local.name)])
  }
  return exported
}

/** `loaded`: files that are loaded anyway, so that nothing is gained. */
export function deferredModules(loaded) {
  const byIndex = new Map()
  /** The functions to defer of each module that an index.ts exports. */
  const deferredOf = (index) => {
    if (!byIndex.has(index)) {
      const deferred = new Map()
      for (const [file, names] of reexportsOf(index)) {
        const functions = basename(file) === 'index.ts' ? new Map() : asyncFunctionsOf(file)
        if (!loaded.has(file) && names.every((name) => functions.has(name))) deferred.set(file, names.map((name) => ({ name, generator: functions.get(name) })))
      }
      byIndex.set(index, deferred)
    }
    return byIndex.get(index)
  }
  return {
    name: 'deferred-modules',
    resolveId(source, importer) {
      if (!importer || basename(importer) !== 'index.ts' || !source.startsWith('.')) return null
      const file = join(dirname(importer), source)
      return deferredOf(importer).has(file) ? { id: `${file}${suffix}&${importer}` } : null
    },
    load(id) {
      const [file, importer] = id.split(`${suffix}&`)
      if (!importer) return null
      const from = JSON.stringify(file)
      return deferredOf(importer).get(file).map(({ name, generator }) => generator
        ? `export async function* ${name}(...args) { return yield* (await import(${from})).${name}(...args) }`
        : `export async function ${name}(...args) { return (await import(${from})).${name}(...args) }`).join('\n')
    },
  }
}
