// Says why an addon could not be loaded, and what to do, as an error with code ERR_ADDON.
import { Buffer } from 'node:buffer'

const machines = { 3: 'ia32', 40: 'arm', 62: 'x64', 183: 'arm64', 243: 'riscv64', 258: 'loong64', 21: 'ppc64', 22: 's390x' }
const build = 'npm rebuild anneal   (in a clone: npm run build:native); needs a C++20 compiler and cmake (Debian: apt-get install g++ cmake make)'

/** What a file is built for, such as linux-arm64, by its first bytes; undefined where they do not say. */
export function platformOf(path) {
  const { closeSync, openSync, readSync } = process.getBuiltinModule('node:fs')
  const bytes = Buffer.alloc(20)
  try {
    const file = openSync(path)
    try { readSync(file, bytes, 0, 20, 0) } finally { closeSync(file) }
  } catch {
    return undefined
  }
  if (bytes.readUInt32BE(0) === 0x7f454c46) return `linux-${machines[bytes.readUInt16LE(18)] ?? `machine ${bytes.readUInt16LE(18)}`}`
  if (bytes.readUInt32LE(0) === 0xfeedfacf) return `darwin-${bytes.readUInt32LE(4) === 0x0100000c ? 'arm64' : 'x64'}`
  if (bytes.toString('latin1', 0, 2) === 'MZ') return 'win32'
  return undefined
}

/** The C library of this system, in words. */
function systemLibrary() {
  const glibc = process.report?.getReport().header.glibcVersionRuntime
  return glibc ? `glibc ${glibc}` : 'not glibc (musl?)'
}

/** Why one place gave no addon, and what helps: `cause` and `fix`. */
export function explain({ kind, name, path, error }) {
  const message = String(error.message).split('\n')[0]
  if (path === undefined) {
    if (kind === 'variable') return { cause: `${message}`, fix: 'unset ANNEAL_ADDON, or let it name the file anneal.node' }
    if (kind === 'build') return { cause: 'there is none', fix: `build it here: ${build}` }
    return { cause: 'it is not installed', fix: `install it, if there is one for this platform: npm install ${name.replace('package ', '')}   (npm leaves it out with --omit=optional, or where the lock file was written on another platform)` }
  }
  const builtFor = platformOf(path)
  const here = `${process.platform}-${process.arch}`
  if (builtFor !== undefined && builtFor !== here) return { cause: `${path} is built for ${builtFor}, this is Node for ${here}`, fix: `install on this machine instead of copying node_modules: npm install; or build it here: ${build}` }
  const needed = /version [`'](GLIBC(?:XX)?_[\d.]+)' not found/.exec(message)
  if (needed) return { cause: `${path} needs ${needed[1]}, this system has ${systemLibrary()}`, fix: `build it for this system: ${build}; or use a newer one (glibc 2.36 is in Debian 12, Ubuntu 24.04, Fedora 37)` }
  const symbol = /undefined symbol: (\S+)/.exec(message)
  if (symbol) return { cause: `${path} needs ${symbol[1].replace(/,$/, '')}, which this Node ${process.version} does not have`, fix: `use Node 20.17 or later, or build it again: ${build}` }
  if (/file too short|invalid ELF header|not a mach-o file/i.test(message)) return { cause: `${path} is damaged: ${message}`, fix: `install or build it again: ${build}` }
  return { cause: message, fix: `build it here: ${build}` }
}

const typed = (lines) => Object.assign(new Error(lines.join('\n')), { name: 'AddonError', code: 'ERR_ADDON' })

/** One error of all failures. */
export function addonError(failures) {
  const explained = failures.map((failure) => ({ name: failure.name, ...explain(failure) }))
  return typed([
    `anneal's native addon could not be loaded on ${process.platform}-${process.arch} with Node ${process.version}.`,
    ...explained.map(({ name, cause }) => `  - ${name}: ${cause}`),
    'What to try:',
    ...[...new Set(explained.map(({ fix }) => fix))].map((fix) => `  - ${fix}`),
    '  - without cmake: npm run build:gyp    (needs python3, make and g++)',
  ])
}

/** An addon that has not the kernels these sources call: built from others. Undefined where all is well. */
export function mismatch({ addon, from }, expected) {
  const wrong = Object.keys(expected).find((name) => addon.signatures?.[name] !== expected[name])
  if (wrong === undefined) return undefined
  const found = addon.signatures?.[wrong]
  return typed([
    `anneal's native addon does not fit this version of anneal: ${from} has ${found === undefined ? 'no kernel' : `${wrong}${found} where`} ${wrong}${expected[wrong]}${found === undefined ? '' : ' is expected'}.`,
    'What to try:',
    `  - a build of other sources: build it again: ${build}`,
    '  - a package of another version: npm install   (anneal and its platform package must have the same version)',
    '  - ANNEAL_ADDON: unset it',
  ])
}
