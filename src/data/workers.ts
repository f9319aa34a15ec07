import { existsSync, rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { AnnealError, ConfigError, DataError, DiskFullError, TokenizerError } from '../errors.ts'
import { temporaryOf } from '../files/atomic.ts'
import { onEarlyEnd } from '../files/earlyEnd.ts'
import type { ExampleStats } from './examples.ts'
import type { Chunk, TokenizeOptions } from './tokenizeChunk.ts'

/** How a thread makes its own tokenizer: it imports `module` (a URL, or a path from the worker's file) and awaits `factory(...args)`, which returns a Tokenization. Arguments are plain data. */
export interface TokenizerRecipe { module: string, factory: string, args: unknown[] }

/** What a worker is started with. */
export interface WorkerSetup { recipe: TokenizerRecipe, options: TokenizeOptions, fingerprint: string }

export interface WorkerTask { chunk: Chunk, path: string }

export type WorkerReply =
  | { kind: 'ready' }
  | { kind: 'done', stats: ExampleStats }
  | { kind: 'failed', name: string, code: string | undefined, message: string }

/** The compiled worker: beside this module, or in dist/ when this is the TypeScript source (Node cannot start a worker from it). */
export function workerPath(here = import.meta.url): string {
  const compiled = here.endsWith('.ts') ? here.replace(/\/src\/data\/workers\.ts$/, '/dist/tokenizeWorker.js') : new URL('./tokenizeWorker.js', here).href
  const path = fileURLToPath(compiled)
  if (!existsSync(path)) throw new ConfigError(`workers: the compiled worker ${path} is missing; run npm run build:ts, or set workers: 0`)
  return path
}

/** Makes the error a worker met again, of the same class where it is one of anneal's. */
function revive(reply: { name: string, code: string | undefined, message: string }): Error {
  const classes: Record<string, new (message: string) => Error> = { DataError, ConfigError, TokenizerError, DiskFullError }
  const known = classes[reply.name]
  if (known) return new known(reply.message)
  return reply.code?.startsWith('ERR_') ? new AnnealError(reply.code, reply.message) : new Error(`tokenizing worker: ${reply.message}`)
}

interface Task { task: WorkerTask, report: (stats: ExampleStats) => void }

export interface WorkerPool {
  /** Waits until a worker is free and gives it the chunk. Rejects with the first error any worker has met. */
  submit(chunk: Chunk, path: string, report: (stats: ExampleStats) => void): Promise<void>
  /** Waits until every chunk is done. */
  drain(): Promise<void>
  close(): Promise<void>
}

/** Starts `count` workers, each with a tokenizer of its own, and waits until they are ready. */
export async function startWorkers(count: number, setup: WorkerSetup & { signal?: AbortSignal | undefined }): Promise<WorkerPool> {
  const { signal, ...workerData } = setup
  signal?.throwIfAborted()
  const path = workerPath()
  const idle: Worker[] = []
  const busy = new Map<Worker, Task>()
  const workers: Worker[] = []
  let failure: Error | undefined
  let waiting: (() => void)[] = []
  const wake = (): void => { const all = waiting; waiting = []; for (const resume of all) resume() }
  const fail = (error: Error): void => { failure ??= error; wake() }
  const changed = (): Promise<void> => new Promise((resolve) => { waiting.push(resolve) })
  const onAbort = (): void => { fail(signal?.reason instanceof Error ? signal.reason : new Error('aborted')) }
  signal?.addEventListener('abort', onAbort)
  const until = async (condition: () => boolean): Promise<void> => {
    while (!failure && !condition()) await changed()
    if (failure) throw failure
  }
  for (let i = 0; i < count; i++) {
    const worker = new Worker(path, { workerData, name: 'anneal-tokenize' })
    worker.on('message', (reply: WorkerReply) => {
      const task = busy.get(worker)
      busy.delete(worker)
      if (reply.kind === 'failed') { fail(revive(reply)); return }
      if (reply.kind === 'done') task?.report(reply.stats)
      idle.push(worker)
      wake()
    })
    worker.on('error', fail)
    worker.on('exit', (code) => { if (workers.includes(worker)) fail(new Error(`tokenizing worker: it ended with code ${code}; set workers: 0 to see why`)) })
    workers.push(worker)
  }
  const terminate = (): Promise<unknown> => Promise.all(workers.splice(0).map((worker) => worker.terminate()))
  // A thread that is ended in the middle of a shard leaves what it had written of it.
  const undo = (): void => { for (const { task } of busy.values()) rmSync(temporaryOf(task.path), { force: true }) }
  const closed = onEarlyEnd({ stop: terminate, undo })
  const close = async (): Promise<void> => {
    signal?.removeEventListener('abort', onAbort)
    await terminate()
    undo()
    closed()
  }
  try {
    await until(() => idle.length === count)
  } catch (error) {
    await close()
    throw error
  }
  return {
    submit: async (chunk, shard, report) => {
      await until(() => idle.length > 0)
      const worker = idle.pop()!
      const task = { chunk, path: shard }
      busy.set(worker, { task, report })
      worker.postMessage(task)
    },
    drain: () => until(() => busy.size === 0),
    close,
  }
}
