import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { ConfigError } from '../errors.ts'
import { didYouMean } from '../suggest.ts'
import { exactMatch, numericMatch } from './match.ts'
import { jsonValid } from './json.ts'
import { repetitionPenalty } from './shape.ts'
import { thinkFormat } from './format.ts'
import { importModule } from './importModule.ts'
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
