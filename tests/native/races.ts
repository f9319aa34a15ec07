// Run by scripts/races.sh with the thread sanitizer: every kernel on several threads, training and generation of tiny models, graphs, and worker threads
// that end in the middle of their work. The sanitizer judges; wrong results are what the other tests look for.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { setTimeout as wait } from 'node:timers/promises'
import { generate } from '../../src/generate/index.ts'
import { backwardAll, cpu, Graph, scope, Tensor, type DType } from '../../src/tensor/index.ts'
import { makeInputs, type OpCase } from '../cases/case.ts'
import { fusedCases } from '../cases/index.ts'
import { primitiveCases } from '../cases/primitives.ts'
import { rows, runToEnd, tinyModel, tinyTrainer } from '../train/support.ts'
import { helpers, libPath } from './run.ts'

/** A case forward and backward. */
async function compute(opCase: OpCase, dtype: DType): Promise<void> {
  const inputs = makeInputs(opCase, dtype)
  const reads: Promise<unknown>[] = []
  scope(() => {
    const result = opCase.run(...inputs)
    const outputs = result instanceof Tensor ? [result] : result
    const roots = outputs.filter((output) => output.node)
    if (roots.length > 0) backwardAll(roots, roots.map((output) => Tensor.ones(output.shape, { dtype: output.dtype })))
    for (const tensor of [...outputs, ...inputs.flatMap(({ grad }) => grad ?? [])]) reads.push(tensor.data())
  })
  for (const input of inputs) input.dispose()
  await Promise.all(reads)
}

async function kernels(): Promise<void> {
  for (const opCase of [...primitiveCases, ...fusedCases]) {
    if (opCase.benchOnly) continue
    for (const dtype of ['float32', 'bfloat16'] as const) await compute(opCase, dtype)
  }
}

async function training(): Promise<void> {
  for (const dtype of ['float32', 'bfloat16'] as const) {
    const outputDir = mkdtempSync(join(tmpdir(), 'anneal-races-'))
    const model = tinyModel({ dtype, dropout: dtype === 'float32' ? 0.1 : 0 })
    const trainer = tinyTrainer({ model, rows: rows(20), evalRows: rows(4, 2), outputDir, maxSteps: 12, gradientAccumulationSteps: 2, evalStrategy: 'steps', evalSteps: 6, saveStrategy: 'steps', saveSteps: 6, gradientCheckpointing: dtype === 'bfloat16' })
    await runToEnd(trainer)
    model.eval()
    await generate(model, null, [[1, 2, 3], [4, 5, 6, 7, 8], [9]], { maxNewTokens: 20, doSample: true, seed: 1, numReturnSequences: 2 })
    trainer.dispose()
    model.dispose()
    rmSync(outputDir, { recursive: true })
  }
}

/** A graph is replayed, and let go, while other calls and changes of the number of threads are enqueued. */
async function graphs(): Promise<void> {
  for (let round = 0; round < 20; round++) {
    const [a, b] = [Tensor.ones([96, 96]), Tensor.empty([96, 96])]
    const { graph } = Graph.capture(cpu, () => {
      cpu.kernels.gemm(b.handle, 0, a.handle, a.handle, 0, false, false, false, 0, false)
      cpu.kernels.scale(a.handle, b.handle, 1 / 96)
    })
    for (let i = 0; i < 10; i++) {
      graph.replay()
      if (i % 3 === 0) cpu.threads = 1 + (round + i) % 4
    }
    const reads = [a.toArray(), b.toArray()]
    for (const one of [graph, a, b]) one.dispose()
    cpu.emptyCache()
    await Promise.all(reads)
  }
}

async function workers(): Promise<void> {
  const body = `${helpers}
    Promise.all([import('node:worker_threads'), import(${JSON.stringify(libPath)})]).then(async ([{ parentPort }, { native }]) => {
      native.setThreads(2)
      await multiply(native, 90)
      parentPort.postMessage('ready')
      for (;;) { const pending = [multiply(native, 64), multiply(native, 33)]; native.setThreads(1 + Math.floor(3 * Math.random())); await Promise.all(pending) }
    })`
  for (let round = 0; round < 4; round++) {
    const started = Array.from({ length: 3 }, () => new Worker(body, { eval: true }))
    await Promise.all(started.map((worker) => new Promise((resolve, reject) => { worker.once('message', resolve); worker.once('error', reject) })))
    await Promise.all([wait(20 * round), Tensor.ones([300, 300]).toArray()])
    await Promise.all(started.map((worker) => worker.terminate()))
  }
}

const parts = { kernels, training, graphs, workers }
const wanted = process.argv.slice(2)
for (const [name, part] of Object.entries(parts)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue
  for (const isa of cpu.isas) {
    cpu.isa = isa
    cpu.threads = 3
    const begin = performance.now()
    await part()
    process.stdout.write(`${name}, ${isa}: ${((performance.now() - begin) / 1000).toFixed(1)} s\n`)
  }
}
