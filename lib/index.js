// The door between the binary and TypeScript. Looks for the addon where ANNEAL_ADDON points, then in this platform's package, then in the local
// build, and explains a failure with commands to try.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)
const root = dirname(dirname(fileURLToPath(import.meta.url)))
const platform = `${process.platform}-${process.arch}`

function candidates() {
  if (process.env.ANNEAL_ADDON) return [{ from: `ANNEAL_ADDON=${process.env.ANNEAL_ADDON}`, load: () => require(process.env.ANNEAL_ADDON) }]
  return [
    { from: `package @anneal/${platform}`, load: () => require(`@anneal/${platform}`) },
    { from: `local build in ${join(root, 'build')}`, load: () => require('bindings')({ bindings: 'anneal', module_root: root }) },
  ]
}

function load() {
  const causes = []
  for (const { from, load } of candidates()) {
    try {
      return load()
    } catch (error) {
      causes.push(`  - ${from}: ${String(error.message).split('\n')[0]}`)
    }
  }
  const error = new Error([
    `anneal's native addon could not be loaded on ${platform} with Node ${process.version}.`,
    ...causes,
    'What to try:',
    '  - build it here: npm rebuild anneal   (in a clone: npm run build:native); needs a C++20 compiler and cmake (Debian: apt-get install g++ cmake make)',
    '  - without cmake: npm run build:gyp    (needs python3, make and g++)',
  ].join('\n'))
  error.code = 'ERR_ADDON'
  throw error
}

export const native = load()

/** Where a device library is: named by ANNEAL_CUDA_LIBRARY or ANNEAL_SIMT_LIBRARY, in this platform's package, or in the local build. */
export function deviceLibrary(kind) {
  const variable = `ANNEAL_${kind.toUpperCase()}_LIBRARY`
  if (process.env[variable]) return process.env[variable]
  const places = [join(root, kind === 'cuda' ? 'build/Release' : 'build-simt', `anneal-${kind}.so`)]
  try {
    places.unshift(join(dirname(require.resolve(`@anneal/${platform}/package.json`)), `anneal-${kind}.so`))
  } catch { /* no such package is installed: the local build is the place */ }
  const found = places.find((path) => existsSync(path))
  if (found) return found
  const error = new Error(`the ${kind} backend is not built (${places.join(' and ')} ${places.length > 1 ? 'do' : 'does'} not exist); build it with: npm run build:${kind}`
    + (kind === 'cuda' ? ', which needs nvcc of CUDA 12.4 or newer' : ''))
  error.code = 'ERR_DEVICE'
  throw error
}
