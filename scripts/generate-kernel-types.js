// Writes lib/kernels.d.ts and lib/signatures.js from what the built addon reports about itself; --check only compares.
import { readFileSync, writeFileSync } from 'node:fs'
import { loadAddon } from '../lib/load.js'

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

/** The text of lib/signatures.js, by which a build of other sources is recognised when it is loaded. */
export function kernelSignatures(signatures) {
  const lines = Object.entries(signatures).map(([name, parameters]) => `  ${name}: '${parameters}',`)
  return ['// Generated from native/kernels.def by `npm run gen`; run it after changing the list.', 'export const signatures = {', ...lines, '}', ''].join('\n')
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const { signatures } = loadAddon().addon
  for (const [file, text] of [['lib/kernels.d.ts', kernelTypes(signatures)], ['lib/signatures.js', kernelSignatures(signatures)]]) {
    const path = new URL(`../${file}`, import.meta.url)
    if (!process.argv.includes('--check')) writeFileSync(path, text)
    else if (readFileSync(path, 'utf8') !== text) {
      console.error(`${file} does not match the addon; run \`npm run gen\``)
      process.exitCode = 1
    }
  }
}
