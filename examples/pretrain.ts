// Trains a tokenizer on the Markdown of this folder, then a small Llama from scratch: npx tsx examples/pretrain.ts
import { writeFileSync } from 'node:fs'
import { chatMLTemplate, chatMLTokens, perplexityOfFiles, pretrain, trainTokenizer } from 'anneal'
import glob from 'fast-glob'

const outputDir = 'anneal-pretrain'
const files = await glob(['*.md', 'docs/*.md', 'node_modules/*/README.md'])
const heldOut = files.splice(0, 2)

await trainTokenizer({
  type: 'bpe', files, vocabSize: 2048, specialTokens: [...chatMLTokens], chatTemplate: chatMLTemplate,
  roles: { eosToken: '<|im_end|>', padToken: '<|endoftext|>' }, outputDir: `${outputDir}/tokenizer`,
})

const run = await pretrain({
  tokenizer: `${outputDir}/tokenizer`, files, outputDir, evalFiles: heldOut, evalStrategy: 'steps', evalSteps: 25, maxSteps: 50,
  modelConfig: { modelType: 'llama', hiddenSize: 128, intermediateSize: 344, numHiddenLayers: 2, numAttentionHeads: 4, tieWordEmbeddings: true },
  maxLength: 128, perDeviceTrainBatchSize: 8, learningRate: 2e-3, lrSchedulerType: 'cosine', warmupRatio: 0.1, samplePrompts: ['## Install'],
})
run.trainer.on((event) => {
  if (event.type === 'evaluate') console.log(`step ${event.step}: held-out loss ${event.metrics['loss']?.toFixed(3) ?? '?'}`)
  if (event.type === 'sample') console.log(event.prompt + event.text)
})

// Ctrl-C finishes the step, saves a checkpoint and ends; resumeFromCheckpoint: true goes on from it.
const controller = new AbortController()
process.once('SIGINT', () => { controller.abort() })
const result = await run.train({ signal: controller.signal })

const { perplexity } = await perplexityOfFiles(run.model, run.tokenizer, heldOut)
writeFileSync(`${outputDir}/result.json`, JSON.stringify({ ...result, perplexity }))
console.log(`${result.reason} after ${result.step} steps, perplexity ${perplexity.toFixed(1)}`)
run.dispose()
