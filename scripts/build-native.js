// Builds the native addon for this machine: with cmake where there is one, else with node-gyp. Names what is missing and the command that installs it.
// When the package is installed it does so only where the platform's package with the binary is missing or cannot be loaded.
import { spawnSync } from 'node:child_process'
import { existsSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { platformPackage } from '../lib/load.js'

const require = createRequire(import.meta.url)
const root = fileURLToPath(new URL('..', import.meta.url))

// Headers that lie beside Node need not be downloaded.
const prefix = dirname(dirname(realpathSync(process.execPath)))
if (!process.env.npm_config_nodedir && existsSync(join(prefix, 'include/node/node_api.h'))) process.env.npm_config_nodedir = prefix

const has = (command) => spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0
const run = (command, args) => spawnSync(command, args, { cwd: root, stdio: 'inherit' }).status === 0

/** Whether the package with the binary for this platform is installed and can be loaded. */
function hasPlatformPackage() {
  try {
    require(platformPackage)
    return true
  } catch {
    return false
  }
}

const packages = { linux: 'Debian, Ubuntu: apt-get install g++ cmake make', darwin: 'macOS: xcode-select --install && brew install cmake' }

function main() {
  const installing = process.env.npm_lifecycle_event === 'install'
  if (process.env.ANNEAL_SKIP_BUILD || (installing && (process.env.ANNEAL_ADDON || hasPlatformPackage()))) return true
  const compiler = [process.env.CXX, 'c++', 'g++', 'clang++'].filter(Boolean).find(has)
  if (!compiler) {
    console.error(`anneal: no C++ compiler was found (tried c++, g++, clang++). It needs one with C++20, such as g++ 11 or clang 14.\n  ${packages[process.platform] ?? 'install g++ or clang'}`)
    return false
  }
  const withCmake = has('cmake') && (has('ninja') || has('make'))
  if (withCmake) {
    const cmakeJs = require.resolve('cmake-js/bin/cmake-js')
    const compile = [cmakeJs, 'compile', '--out', 'build', '--parallel', String(availableParallelism())]
    if (process.env.ANNEAL_ISAS) compile.push(`--CDANNEAL_ISAS=${process.env.ANNEAL_ISAS}`)
    // The CUDA backend too, where there is a GPU to use it and a compiler to build it.
    const cuda = has('nvcc') && has('nvidia-smi')
    if (run(process.execPath, cuda ? [...compile, '--CDANNEAL_CUDA=ON', '--CDCMAKE_CUDA_ARCHITECTURES=native'] : compile)) return true
    if (cuda && run(process.execPath, [...compile, '--CDANNEAL_CUDA=OFF'])) {
      console.error('anneal: the CUDA backend could not be built; see above. The CPU backend was. Try again with: npm run build:cuda')
      return true
    }
    console.error('anneal: the build with cmake failed; see above')
    return false
  }
  console.error('anneal: cmake and make (or ninja) were not found; building with node-gyp instead')
  if (!has('python3') || !has('make')) {
    console.error(`anneal: node-gyp needs ${['python3', 'make'].filter((tool) => !has(tool)).join(' and ')}.\n  ${packages[process.platform] ?? 'install cmake and make'} python3`)
    return false
  }
  return run(process.execPath, [require.resolve('node-gyp/bin/node-gyp.js'), 'rebuild', '-j', String(availableParallelism())])
}

if (!existsSync(`${root}/native`)) process.exit(0)
process.exit(main() ? 0 : 1)
