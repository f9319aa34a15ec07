// A plugin of the bundle: what core imports of Node and of bundled packages is loaded when it is first called, for an import of anneal calls none of it.
// A function becomes one that asks its module at each call, an object a proxy of it; sources and declarations know nothing of it.

const prefix = '\0deferred:'
/** Packages that are bundled, each into a CommonJS file of dist/, because import() would have to be awaited, and what anneal imports of them. */
export const packages = { zod: ['z'], '@huggingface/jinja': ['Template'] }
export const fileOf = (name) => `${name.replace(/^.*\//, '')}.cjs`

/** Node's module or a bundled one, as an expression. */
const moduleOf = (name) => name.startsWith('node:')
  ? `process.getBuiltinModule('${name}')`
  : `process.getBuiltinModule('node:module').createRequire(import.meta.url)('./${fileOf(name)}')`

export function deferredPackages() {
  return {
    name: 'deferred-packages',
    resolveId(source, importer) {
      if (!importer || !(source in packages || source.startsWith('node:'))) return null
      // Paths are joined at once, and the worker of a tokenizer reads what belongs to its thread.
      return source === 'node:path' || importer.endsWith('tokenizeWorker.ts') ? null : { id: prefix + source, moduleSideEffects: false }
    },
    async load(id) {
      if (!id.startsWith(prefix)) return null
      const name = id.slice(prefix.length)
      const exported = Object.entries(await import(name)).filter(([key]) => packages[name]?.includes(key) ?? key !== 'default')
      const lines = exported.map(([key, value]) => typeof value === 'function'
        ? `export function ${key}(...args) { const { ${key} } = load(); return new.target ? new ${key}(...args) : ${key}(...args) }`
        : `export const ${key} = /* @__PURE__ */ new Proxy({}, { get: (_, name) => load().${key}[name] })`)
      if (name.startsWith('node:')) lines.push('export default /* @__PURE__ */ new Proxy({}, { get: (_, name) => load()[name] })')
      return [`let loaded\nconst load = () => loaded ??= ${moduleOf(name)}`, ...lines].join('\n')
    },
  }
}

/** A plugin for the file of a package: of what it exports only what anneal imports, and of zod's 50 languages the English it is set to. */
export const onlyExports = (name) => ({
  name: 'only-exports',
  resolveId: (source, importer) => importer ? (source.endsWith('/locales/index.js') ? { id: '\0none' } : null) : { id: `\0${name}` },
  load: (id) => id === '\0none' ? 'export {}' : id === `\0${name}` ? `export { ${packages[name].join(', ')} } from '${name}'` : null,
})
