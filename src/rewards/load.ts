import { existsSync } from 'node:fs'
import { extname, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { ConfigError } from '../errors.ts'
import { didYouMean } from '../suggest.ts'
import { exactMatch, numericMatch } from './match.ts'
import { jsonValid } from './json.ts'
import { repetitionPenalty } from './shape.ts'
import { thinkFormat } from './format.ts'
import type { RewardFunction } from './types.ts'

/** The reward functions that a name is enough for; each reads its column of the data. */
export const namedRewards: Readonly<Record<string, () => RewardFunction>> = {
  exactMatch: () => exactMatch(), numericMatch: () => numericMatch(), thinkFormat: () => thinkFormat(), repetition: () => repetitionPenalty(), jsonValid: () => jsonValid(),
}

const isPath = (name: string): boolean => /[\\/]/.test(name) || /\.[cm]?[jt]s$/.test(name)

/** Reward functions by name, or by the path of a module whose default export is one function or a list of them. */
export async function loadRewards(names: string | readonly string[]): Promise<RewardFunction[]> {
  const list = typeof names === 'string' ? [names] : names
  return (await Promise.all(list.map(async (name) => isPath(name) ? loadModule(name) : [named(name)]))).flat()
}

function named(name: string): RewardFunction {
  if (!Object.hasOwn(namedRewards, name)) throw new ConfigError(`reward: there is no reward function "${name}"${didYouMean(name, Object.keys(namedRewards))}; known are ${Object.keys(namedRewards).join(', ')}, or the path of a module such as ./reward.ts`)
  return namedRewards[name]!()
}

/** Node strips types itself from version 22.18 on; before, tsx does where it is installed. */
async function loadModule(path: string): Promise<RewardFunction[]> {
  const file = resolve(path)
  if (!existsSync(file)) throw new ConfigError(`reward: ${path}: there is no such file`)
  const given = defaultOf(await importModule(file, path))
  const functions: unknown[] = Array.isArray(given) ? given : [given]
  functions.forEach((one) => {
    if (typeof one !== 'function') throw new ConfigError(`reward: ${path}: expected a default export that is a reward function or a list of them, got ${one === undefined ? 'none' : typeof one}`)
  })
  return functions as RewardFunction[]
}

/** The default export; of a file that tsx took for CommonJS, for want of a package.json with type module, it stands one deeper. */
function defaultOf(module: unknown): unknown {
  const given = (module as { default?: unknown }).default
  return typeof given === 'object' && given !== null && !Array.isArray(given) && 'default' in given ? given.default : given
}

async function importModule(file: string, path: string): Promise<unknown> {
  const url = pathToFileURL(file).href
  const isTypeScript = /^\.[cm]?ts$/.test(extname(file))
  try {
    if (isTypeScript && !stripsTypes()) {
      const tsx = await tsxLoader()
      if (tsx) return await tsx.tsImport(url, import.meta.url)
      throw new ConfigError(`reward: ${path}: this Node.js (${process.version}) does not run TypeScript; use Node.js 22.18 or newer, install tsx beside anneal, or give a .js module`)
    }
    return await import(url) as unknown
  } catch (error) {
    if (error instanceof ConfigError) throw error
    throw new ConfigError(`reward: ${path}: the module cannot be loaded: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  }
}

/** 'strip' or 'transform' where Node runs TypeScript; older versions do not have the field. */
const stripsTypes = (): boolean => Boolean((process.features as { typescript?: string | false }).typescript)

interface TsxLoader { tsImport(specifier: string, parent: string): Promise<unknown> }

async function tsxLoader(): Promise<TsxLoader | undefined> {
  // Named by a variable, as it need not be installed.
  const name = 'tsx/esm/api'
  try {
    return await import(name) as TsxLoader
  } catch {
    return undefined
  }
}
