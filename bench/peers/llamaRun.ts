// Times llama.cpp. Usage: llamaRun.ts prefill|decode TYPE FOLDER --threads N --seconds S --limit L; FOLDER has node_modules/node-llama-cpp.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { time } from '../quiet.ts'
import { ids, shapes } from '../steps/shapes.ts'

/** What is used of node-llama-cpp, which is no dependency of ours. */
interface Sequence {
  clearHistory(): Promise<void>
  evaluateWithoutGeneratingNewTokens(tokens: readonly number[]): Promise<void>
  evaluate(tokens: readonly number[], options: { temperature: number; yieldEogToken: boolean }): AsyncGenerator<number>
}
interface Context { getSequence(): Sequence }
interface Model { createContext(options: object): Promise<Context> }
interface Llama { loadModel(options: object): Promise<Model> }
interface Library { getLlama(options: object): Promise<Llama> }

const text = { type: 'string' } as const
const { values, positionals } = parseArgs({ allowPositionals: true, options: { threads: text, seconds: text, limit: text } })
const [kind, type, folder] = positionals as [string, string, string]
const [threads, budget, limit] = [Number(values.threads ?? 1), Number(values.seconds ?? 3), Number(values.limit ?? 30)]

const { vocabSize } = shapes.qwen()
const path = join(tmpdir(), `anneal-bench-${vocabSize}-${type}.gguf`)
if (!existsSync(path)) {
  // In a process of its own, so that its memory is not counted.
  const made = spawnSync(process.execPath, ['--import', 'tsx', fileURLToPath(new URL('llamaModel.ts', import.meta.url)), type, path], { stdio: ['ignore', 'ignore', 'inherit'] })
  if (made.status !== 0) throw new Error('the model could not be written')
}

const entry = createRequire(join(resolve(folder), 'package.json')).resolve('node-llama-cpp')
const library = await import(pathToFileURL(entry).href) as Library
const llama = await library.getLlama({ gpu: false, build: 'never', logLevel: 'error', maxThreads: threads })
const model = await llama.loadModel({ modelPath: path, gpuLayers: 0 })
const context = await model.createContext({ contextSize: 2048, batchSize: 512, threads })
const sequence = context.getSequence()

async function measure(): ReturnType<typeof time> {
  if (kind === 'prefill') {
    const prompt = ids(512, vocabSize)
    return time(async () => {
      await sequence.clearHistory()
      await sequence.evaluateWithoutGeneratingNewTokens(prompt)
    }, { budget, limit, least: 3 })
  }
  const [prompt, more] = [ids(128, vocabSize), 16]
  return time(async () => {
    await sequence.clearHistory()
    let [made, first] = [0, 0]
    for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
      if (++made === 1) first = performance.now()
      if (made > more) break
    }
    return (performance.now() - first) / 1000 / more
  }, { budget, limit, least: 3 })
}

console.log(JSON.stringify({ ...await measure(), peakMemory: process.resourceUsage().maxRSS * 1024 }))
process.exit(0)
