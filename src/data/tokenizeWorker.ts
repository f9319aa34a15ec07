import { parentPort, workerData } from 'node:worker_threads'
import { AnnealError } from '../errors.ts'
import { tokenizeToShard } from './cache.ts'
import type { Tokenization } from './examples.ts'
import type { WorkerReply, WorkerSetup, WorkerTask } from './workers.ts'

/** The thread that tokenizes chunks into shards; workers.ts starts it and speaks with it. */
const port = parentPort
if (!port) throw new Error('tokenizeWorker runs in a worker thread only')

const { recipe, options, fingerprint } = workerData as WorkerSetup
const reply = (message: WorkerReply): void => { port.postMessage(message) }
const failed = (error: unknown): void => {
  reply({
    kind: 'failed',
    name: error instanceof Error ? error.name : 'Error',
    code: error instanceof AnnealError ? error.code : undefined,
    message: error instanceof Error ? error.message : String(error),
  })
}

try {
  const module = await import(new URL(recipe.module, import.meta.url).href) as Record<string, (...args: unknown[]) => Tokenization | Promise<Tokenization>>
  const factory = module[recipe.factory]
  if (!factory) throw new Error(`${recipe.module} exports no ${recipe.factory}`)
  const tokenization = await factory(...recipe.args)
  port.on('message', ({ chunk, path }: WorkerTask) => {
    tokenizeToShard(chunk, path, { tokenization, options, fingerprint }).then(({ stats }) => { reply({ kind: 'done', stats }) }, failed)
  })
  reply({ kind: 'ready' })
} catch (error) {
  failed(error)
}
