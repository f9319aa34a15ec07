// Proves that training leaves the event loop to others, and that its memory is flat.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { afterEach, expect, test } from 'vitest'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { cpu } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { rows, runToEnd, tinyModel, tinyTrainer } from './support.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

test('the event loop stays free while both cores train', async () => {
  const before = cpu.threads
  cpu.threads = 2
  try {
    const model = AutoModelForCausalLM.fromConfig({ modelType: 'llama', vocabSize: 4096, hiddenSize: 256, intermediateSize: 688, numHiddenLayers: 4, numAttentionHeads: 4, maxPositionEmbeddings: 256 })
    const long = Array.from({ length: 64 }, (_, row) => { const inputIds = Int32Array.from({ length: 128 }, (_, i) => (row * 31 + i * 7) % 4096); return { inputIds, labels: inputIds } })
    const trainer = tinyTrainer({ model, rows: long, outputDir: temporaryFolder(), perDeviceTrainBatchSize: 4, maxSteps: 16, learningRate: 1e-4 })
    live.push(model, trainer)
    const delay = monitorEventLoopDelay({ resolution: 1 })
    trainer.on((event) => { if (event.type === 'step' && event.step === 1) delay.enable() })
    await runToEnd(trainer)
    delay.disable()
    const [p50, p99, max] = [delay.percentile(50), delay.percentile(99), delay.max].map((nanoseconds) => nanoseconds / 1e6)
    process.stdout.write(`event loop delay while training: p50 ${p50!.toFixed(1)} ms, p99 ${p99!.toFixed(1)} ms, most ${max!.toFixed(1)} ms\n`)
    expect(delay.count).toBeGreaterThan(100)
    expect(p99).toBeLessThan(50)
  } finally {
    cpu.threads = before
  }
})

test('memory is the same after each of 300 steps', async () => {
  const model = tinyModel()
  const trainer = tinyTrainer({ model, rows: rows(20), evalRows: rows(4, 2), outputDir: temporaryFolder(), maxSteps: 300, gradientAccumulationSteps: 2, loggingSteps: 20, evalStrategy: 'steps', evalSteps: 100 })
  live.push(model, trainer)
  const used: number[] = []
  let live0: { live: number, blocks: number } | undefined
  // A log event comes when no step is running: what lives then are the weights, the optimizer and nothing else.
  trainer.on((event) => { if (event.type === 'log') { const { live: bytes, blocks } = cpu.memory(); live0 ??= { live: bytes, blocks }; used.push(bytes); expect(blocks).toBe(live0.blocks) } })
  await runToEnd(trainer)
  expect(used).toHaveLength(16)
  expect(new Set(used).size, used.join()).toBe(1)
})
