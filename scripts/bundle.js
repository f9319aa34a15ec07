// Writes the JavaScript of dist/: few modules instead of hundreds, because each costs time when it is imported; names and lines are kept, so stack
// traces read as the sources do. zod and jinja are inside, each in a file that core loads when it needs it. `npm run build:ts` writes the declarations too.
import { copyFileSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { rolldown } from 'rolldown'
import { deferredModules } from './deferredModules.js'
import { deferredPackages, fileOf, onlyExports, packages } from './deferredPackages.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const dist = join(root, 'dist')
const bundled = Object.keys(packages)

// Text of ASCII alone is read faster.
const ascii = { name: 'ascii', renderChunk: (code) => code.replace(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`) }

/** Bundles; what `atOnce` holds, the modules that an import of anneal loads, is in one file, and no function of it waits for its module. */
const bundle = (atOnce) => rolldown({
  cwd: root,
  // main loads program, which finds package.json from its own folder, once signals are handled; tokenizeWorker is started as a thread, tokenization imported by it; both are found beside the module that says so.
  input: { index: 'src/index.ts', 'cli/main': 'src/cli/main.ts', 'cli/program': 'src/cli/program.ts', tokenizeWorker: 'src/data/tokenizeWorker.ts', tokenization: 'src/data/tokenization.ts' },
  platform: 'node',
  external: (id) => id.endsWith('/lib/index.js') || (/^(?!node:)[a-z@]/.test(id) && !/^@oxc-project\/runtime\//.test(id) && !bundled.some((name) => id === name || id.startsWith(`${name}/`))),
  plugins: [deferredPackages(), deferredModules(atOnce), ascii],
  transform: { target: 'es2022' },
  onwarn(warning) { if (atOnce.size) throw new Error(warning.message) },
})

/** The modules that index.js reaches without import(). */
async function loadedAtOnce() {
  const { output } = await (await bundle(new Set())).generate({ format: 'esm' })
  const chunks = new Map(output.map((chunk) => [chunk.fileName, chunk]))
  const reached = new Set(['index.js'])
  for (const name of reached) for (const imported of chunks.get(name)?.imports ?? []) reached.add(imported)
  return new Set([...reached].flatMap((name) => chunks.get(name)?.moduleIds ?? []))
}

/** Writes a bundled package into a file that core loads when it needs it, and its licence; gives the file's name. */
async function bundlePackage(name) {
  const one = await rolldown({ cwd: root, platform: 'node', input: name, plugins: [onlyExports(name), ascii], transform: { target: 'es2022' } })
  await one.write({ file: join(dist, fileOf(name)), format: 'cjs', comments: false, minify: false })
  mkdirSync(join(dist, 'licenses'), { recursive: true })
  copyFileSync(join(root, 'node_modules', name, 'LICENSE'), join(dist, 'licenses', fileOf(name).replace('.cjs', '.txt')))
  return fileOf(name)
}

const atOnce = await loadedAtOnce()
const { output } = await (await bundle(atOnce)).write({
  dir: dist, format: 'esm', chunkFileNames: '[name].js', comments: false, minify: false,
  codeSplitting: { groups: [{ name: 'core', test: (id) => atOnce.has(id) }] },
})
const files = await Promise.all(bundled.map(bundlePackage))

// What an earlier build left behind goes; declarations are those of the sources that exist.
const kept = new Set([...output.map(({ fileName }) => fileName), ...files].map((name) => join(dist, name)))
for (const name of readdirSync(join(root, 'src'), { recursive: true })) kept.add(join(dist, name.replace(/\.ts$/, '.d.ts')))
for (const name of readdirSync(join(dist, 'licenses'))) kept.add(join(dist, 'licenses', name))
const found = readdirSync(dist, { recursive: true, withFileTypes: true }).map((entry) => ({ entry, path: join(entry.parentPath, entry.name) }))
for (const { entry, path } of found) if (entry.isFile() && !kept.has(path)) rmSync(path)
