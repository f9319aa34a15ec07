import { homedir } from 'node:os'
import { join } from 'node:path'

/** Where tokenized data is kept when nothing else is said. */
export function defaultCacheDir(): string {
  const { ANNEAL_CACHE, XDG_CACHE_HOME } = process.env
  return join(ANNEAL_CACHE ?? join(XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'anneal'), 'datasets')
}
