// Finds and loads the addon: where ANNEAL_ADDON points, else the local build, which exists only where somebody made it, else this platform's package.
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { addonError } from './failure.js'

const require = createRequire(import.meta.url)
const root = dirname(import.meta.dirname)

/** The package with this platform's binary; on Linux those of the GNU C library. */
export const platformPackage = `@anneal/${process.platform}-${process.arch}${process.platform === 'linux' ? '-gnu' : ''}`

/** The local build of cmake-js or node-gyp, wherever it put it. */
function localBuild() {
  try {
    return require.resolve(join(root, 'build/Release/anneal.node'))
  } catch {
    return require('bindings')({ bindings: 'anneal', module_root: root, path: true })
  }
}

function candidates() {
  const { ANNEAL_ADDON } = process.env
  if (ANNEAL_ADDON) return [{ kind: 'variable', name: `ANNEAL_ADDON=${ANNEAL_ADDON}`, find: () => require.resolve(ANNEAL_ADDON) }]
  return [
    { kind: 'build', name: `local build in ${join(root, 'build')}`, find: localBuild },
    { kind: 'package', name: `package ${platformPackage}`, find: () => require.resolve(platformPackage) },
  ]
}

/** The addon as it is. @throws an error with code ERR_ADDON that tells for each place why there is none. */
export function loadAddon() {
  const failures = []
  for (const { kind, name, find } of candidates()) {
    let path
    try {
      path = find()
      return { addon: require(path), from: name }
    } catch (error) {
      failures.push({ kind, name, path, error })
    }
  }
  throw addonError(failures)
}

/** Where a device library is: named by ANNEAL_CUDA_LIBRARY or ANNEAL_SIMT_LIBRARY, in the local build, or in its package. @throws with code ERR_DEVICE. */
export function deviceLibrary(kind) {
  const variable = `ANNEAL_${kind.toUpperCase()}_LIBRARY`
  if (process.env[variable]) return process.env[variable]
  const built = join(root, kind === 'cuda' ? 'build/Release' : 'build-simt', `anneal-${kind}.so`)
  // Node's file system is loaded when it is needed: an import of anneal needs none of it.
  if (process.getBuiltinModule('node:fs').existsSync(built)) return built
  const name = `${platformPackage}-${kind}`
  try {
    return require.resolve(name)
  } catch { /* the error below says so */ }
  const error = new Error(kind === 'cuda'
    ? `the cuda backend is not there: ${built} does not exist and ${name} is not installed; install that package, or build it with: npm run build:cuda, which needs nvcc of CUDA 12.4 or newer`
    : `the simt backend is not built (${built} does not exist); build it with: npm run build:simt`)
  error.code = 'ERR_DEVICE'
  throw error
}
