// Trains in a folder with the compiled package, going on from what is there, and prints the hash of the checkpoint it ends with; run, and killed, by
// resume.test.ts.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { AnnealError, AutoModelForCausalLM, causalTask, Trainer } from '../../dist/index.js'

const [outputDir] = process.argv.slice(2)
const model = AutoModelForCausalLM.fromConfig({
  modelType: 'gpt2', vocabSize: 61, nEmbd: 32, nLayer: 2, nHead: 4, nPositions: 64, residPdrop: 0.1, embdPdrop: 0.1, attnPdrop: 0.1, bosTokenId: 0, eosTokenId: 0,
}, { seed: 1 })
const lengthOf = (row) => 4 + (row * 7) % 19
const get = (row) => {
  const inputIds = Int32Array.from({ length: lengthOf(row) }, (_, i) => (row * 5 + i * (1 + row % 3)) % 61)
  return { inputIds, labels: inputIds.map((id, i) => (i < row % 4 ? -100 : id)) }
}
const batching = { perDeviceTrainBatchSize: 4, gradientAccumulationSteps: 2, seed: 42 }
const task = causalTask({ name: 'sft', model, trainDataset: { length: 22, get, lengthOf }, fingerprint: 'rows', perDeviceEvalBatchSize: 4, labelSmoothingFactor: 0, ...batching })
const trainer = new Trainer(task, {
  ...batching, outputDir, numTrainEpochs: 8, learningRate: 1e-2, loggingSteps: 5, lrSchedulerType: 'cosine', saveStrategy: 'steps', saveSteps: 2, saveTotalLimit: 2,
  resumeFromCheckpoint: true, reportTo: ['jsonl'],
})
trainer.on(({ type }) => { if (type === 'start') process.stdout.write('started\n') })
try {
  const { lastCheckpoint, trainLoss } = await trainer.train()
  const hash = createHash('sha256')
  for (const file of ['model.safetensors', 'optimizer.safetensors']) hash.update(readFileSync(join(lastCheckpoint, file)))
  process.stdout.write(`${hash.digest('hex')} ${trainLoss}\n`)
} catch (error) {
  process.stdout.write(`${error instanceof AnnealError ? '' : 'unexpected '}${error}\n`)
  process.exitCode = 1
}
