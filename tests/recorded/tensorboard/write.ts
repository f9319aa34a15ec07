// Writes the event file that check.py reads: npx tsx write.ts FOLDER
import { TensorBoardLogger } from '../../../src/train/loggers/index.ts'

const logger = new TensorBoardLogger(process.argv[2]!)
logger.handle({ type: 'start', time: Date.now(), method: 'sft', step: 0, totalSteps: 1000, parameters: 1000, trainableParameters: 1000, options: { learningRate: 3e-4, note: 'wörld' } })
for (let step = 1; step <= 1000; step++) {
  logger.handle({
    type: 'log', time: Date.now(), step, totalSteps: 1000, epoch: step / 500, metrics: { loss: 4 / step, learningRate: 3e-4, gradNorm: 1 }, tokensSeen: step * 2 ** 32,
    tokensPerSecond: 2048, elapsedSeconds: step, memoryBytes: 1e9,
  })
}
logger.handle({ type: 'evaluate', time: Date.now(), step: 1000, totalSteps: 1000, epoch: 2, metrics: { loss: 0.5, meanTokenAccuracy: 0.75 } })
logger.handle({ type: 'sample', time: Date.now(), step: 1000, totalSteps: 1000, epoch: 2, prompt: 'Hello', text: '你好' })
logger.histogram('weights', Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i)), 1000)
logger.close()
