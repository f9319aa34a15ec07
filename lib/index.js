// The door between the binary and TypeScript. Looks for the addon where ANNEAL_ADDON points, then in this platform's package, then in the local
// build, and explains a failure with commands to try.
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
