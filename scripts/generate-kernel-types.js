// Writes lib/kernels.d.ts from the signatures that the built addon reports about itself; --check only compares.
import { readFileSync, writeFileSync } from 'node:fs'
import { native } from '../lib/index.js'

const types = {
  In: 'Handle', Out: 'Handle', InOut: 'Handle', MaybeIn: 'Handle', MaybeOut: 'Handle', MaybeInOut: 'Handle',
  Ins: 'readonly Handle[]', Outs: 'readonly Handle[]', InOuts: 'readonly Handle[]', Numbers: 'readonly number[]', double: 'number', int64_t: 'number', bool: 'boolean', Axes: 'readonly number[]',
}
const camel = (name) => name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase())

/** The text of lib/kernels.d.ts for the addon's signatures. */
export function kernelTypes(signatures) {
  const lines = Object.entries(signatures).map(([name, parameters]) => {
    const arguments_ = parameters.slice(1, -1).split(',').map((parameter) => {
      const [kind, argument] = parameter.trim().split(/\s+/)
      if (!types[kind]) throw new Error(`${name}: no TypeScript type for "${kind}"`)
      const optional = kind.startsWith('Maybe') ? ' | 0' : ''
      return `${camel(argument)}: ${types[kind]}${optional}`
    })
    return `  ${name}(${arguments_.join(', ')}): void`
  })
  return [
    '// Generated from native/kernels.def by `npm run gen`; run it after changing the list.',
    '/** A tensor of the native table. */',
    'export type Handle = number',
    '',
    'export interface Kernels {',
    ...lines,
    '}',
    '',
  ].join('\n')
}

const path = new URL('../lib/kernels.d.ts', import.meta.url)
if (process.argv[1] === new URL(import.meta.url).pathname) {
  const text = kernelTypes(native.signatures)
  if (!process.argv.includes('--check')) writeFileSync(path, text)
  else if (readFileSync(path, 'utf8') !== text) {
    console.error('lib/kernels.d.ts does not match the addon; run `npm run gen`')
    process.exit(1)
  }
}
