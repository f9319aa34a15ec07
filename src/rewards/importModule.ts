import { extname } from 'node:path'
import { pathToFileURL } from 'node:url'
import { ConfigError } from '../errors.ts'

interface TsxLoader { tsImport(specifier: string, parent: string): Promise<unknown> }

export interface ImportOptions {
  /** Whether Node.js itself runs TypeScript: from 22.18 on. */
  stripsTypes?: boolean
  /** The optional dependency that runs it elsewhere; undefined where it is not installed. */
  tsx?: () => Promise<TsxLoader | undefined>
}

/** 'strip' or 'transform' where Node runs TypeScript; older versions do not have the field. */
const nodeStripsTypes = (): boolean => Boolean((process.features as { typescript?: string | false }).typescript)

async function installedTsx(): Promise<TsxLoader | undefined> {
  // Named by a variable, as it need not be installed.
  const name = 'tsx/esm/api'
  try {
    return await import(name) as TsxLoader
  } catch {
    return undefined
  }
}

/** Imports a module of JavaScript or TypeScript; `path` is the file as it was named. Throws ConfigError where it cannot be run. */
export async function importModule(file: string, path: string, { stripsTypes = nodeStripsTypes(), tsx = installedTsx }: ImportOptions = {}): Promise<unknown> {
  const url = pathToFileURL(file).href
  try {
    if (stripsTypes || !/^\.[cm]?ts$/.test(extname(file))) return await import(url) as unknown
    const loader = await tsx()
    if (loader) return await loader.tsImport(url, import.meta.url)
  } catch (error) {
    throw new ConfigError(`reward: ${path}: the module cannot be loaded: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  }
  throw new ConfigError(`reward: ${path}: this Node.js (${process.version}) does not run TypeScript by itself, and tsx, an optional dependency, is not installed; run npm install tsx, use Node.js 22.18 or newer, or give a .js module`)
}
