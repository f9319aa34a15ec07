// The door between the binary and TypeScript.
import { mismatch } from './failure.js'
import { loadAddon } from './load.js'
import { signatures } from './signatures.js'

const loaded = loadAddon()
const problem = mismatch(loaded, signatures)
if (problem) throw problem

export const native = loaded.addon
export { deviceLibrary } from './load.js'
