// Trains a reward model from pairs of answers, of which one is better, and asks it for scores. Runs after the quickstart: npx tsx examples/rewardModel.ts
import { reward, score } from 'anneal'
import { jsonl, percent, questions, size } from './shared.ts'

const [policy, outputDir] = ['anneal-quickstart/tuned', 'anneal-reward']
const train = questions('anneal-quickstart/instructions.jsonl').slice(0, size(2000, 32))
const heldOut = questions('anneal-quickstart/held-out.jsonl').slice(0, size(100, 10))
const says = (content: string): object[] => [{ role: 'assistant', content }]
const pairs = (name: string, rows: typeof train): string => jsonl(`${outputDir}/${name}.jsonl`, rows.map(({ prompt, answer, wrong }) => ({ prompt, chosen: says(answer), rejected: says(wrong[0]!) })))

const run = await reward({
  model: policy, files: pairs('train', train), evalFiles: pairs('held-out', heldOut), outputDir: `${outputDir}/model`, perDeviceTrainBatchSize: 16, numTrainEpochs: 2, learningRate: 3e-4,
  lrSchedulerType: 'cosine', warmupRatio: 0.1, centerRewardsCoefficient: 0.01, maxLength: 128, evalStrategy: 'no', saveStrategy: 'no', reportTo: [],
})
await run.train()
console.log(`the better of two held-out answers: ${percent((await run.trainer.evaluate())['accuracy']!)}`)
run.dispose()
run.model.dispose()

// What it makes of single answers, as `anneal score` prints it.
const [{ prompt, answer, wrong }] = heldOut as [typeof heldOut[number]]
const answers = [answer, ...wrong]
const scores = score({ model: `${outputDir}/model`, files: jsonl(`${outputDir}/answers.jsonl`, answers.map((word) => ({ prompt, completion: says(word) }))) })
console.log(prompt[0]!.content)
for (const word of answers) console.log(`  ${word.padEnd(8)}`, (await scores.next()).value)
