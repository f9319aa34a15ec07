// Distils a model folder into one of half its layers, from recorded distributions: npx tsx examples/distill.ts MODEL DATA
// Prints the held-out cross-entropy of the labels before and after.
import { AutoModelForCausalLM, distill, teach } from 'anneal'

const [teacher = 'anneal-quickstart/tuned', files = 'chats.jsonl'] = process.argv.slice(2)
const data = { files, evalSplit: 0.1, maxLength: 512, seed: 42 }

// The teacher runs once; any number of students can learn from what it says.
const { rows, meanTail } = await teach({ ...data, teacher, output: 'distilled/recording', topK: 64, temperature: 2 })
console.log(`${rows} rows recorded; ${(100 * meanTail!).toFixed(2)} % of the teacher's probability is in the tail`)

const model = await AutoModelForCausalLM.fromPretrained(teacher)
const layers = Array.from({ length: Math.ceil(model.config.numHiddenLayers / 2) }, (_, i) => 2 * i)
model.dispose()

// Every second layer of the teacher is where the student begins.
const run = await distill({
  ...data, teacher, recorded: 'distilled/recording', initFromTeacher: layers, outputDir: 'distilled/student', temperature: 2, alpha: 0.2, numTrainEpochs: 1, learningRate: 5e-4,
})
console.log('before:', (await run.trainer.evaluate())['nll'])
await run.train()
console.log('after:', (await run.trainer.evaluate())['nll'])
run.dispose()
run.model.dispose()
