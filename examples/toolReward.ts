// A reward of your own that asks tools: a service over HTTP, and another program. Both may fail or hang; the run goes on, and the log counts it.
// Runs after the quickstart, whose questions it asks: npx tsx examples/toolReward.ts [seed]
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { grpo, rewardEach } from 'anneal'
import type { RewardFunction } from 'anneal'
import { percent, questions, rightAnswers, size } from './shared.ts'
import type { Question } from './shared.ts'

const seed = Number(process.argv[2] ?? 1)
const rows = questions('anneal-quickstart/instructions.jsonl')
const heldOut = questions('anneal-quickstart/held-out.jsonl').slice(0, size(100, 10))

// Stands for a service that knows things: GET /?question=…&word=… says true or false, but never answers its twentieth call.
const known = new Map(rows.map(({ prompt, answer }) => [prompt[0]!.content, answer]))
let calls = 0
const service = createServer((request, response) => {
  const query = new URL(request.url!, 'http://localhost').searchParams
  if (++calls === 20) return
  response.end(JSON.stringify(known.get(query.get('question')!) === query.get('word')))
}).listen(0, '127.0.0.1')
await once(service, 'listening')
const url = `http://127.0.0.1:${(service.address() as AddressInfo).port}/`

// The signal is aborted when rewardTimeout is over or the run is stopped: hand it on, and nothing is left behind. This service has ten seconds only, for it
// is known to hang; an answer whose call takes longer has no verdict, the others keep theirs. On a machine so busy that all 128 calls of a step take longer, the
// step teaches nothing, and a warning says so. null is no verdict either.
const checked = rewardEach<Question>('checked', async ({ completion, row }, { signal }) => {
  const query = new URLSearchParams({ question: row.prompt[0]!.content, word: completion.trim() })
  const response = await fetch(`${url}?${query.toString()}`, { signal: AbortSignal.any([signal, AbortSignal.timeout(10_000)]) })
  return response.ok ? Number(await response.json()) : null
})

// Another program, in a process of its own: no more than a word is wanted. An argument is never put together with a shell's command line. execFile has a
// timeout of its own, but where that is over just as the program ends, it resolves with no output at all (Node.js 20); an aborted signal always rejects.
const run = promisify(execFile)
const count = 'JSON.stringify(process.argv.slice(1).map((text) => text.trim().split(/\\s+/).length))'
const oneWord: RewardFunction<Question> = async (samples, { signal }) => {
  const { stdout } = await run(process.execPath, ['-p', count, '--', ...samples.map(({ completion }) => completion)], { signal })
  return (JSON.parse(stdout) as number[]).map((words) => words === 1 ? 1 : 0)
}

const training = await grpo<Question>({
  model: 'anneal-quickstart/tuned', outputDir: `anneal-tool-reward-${seed}`, seed, maxSteps: size(40, 2), perDeviceTrainBatchSize: size(128, 16), numGenerations: 8, maxCompletionLength: 12, learningRate: 1e-4,
  lrSchedulerType: 'linear', warmupRatio: 0.1, loggingSteps: size(10, 1), saveStrategy: 'no', reportTo: [], rewardTimeout: 60_000, rows, rewards: [checked, oneWord], rewardWeights: [1, 0.1],
})
training.trainer.on((event) => {
  if (event.type === 'warning') console.log(event.message)
  if (event.type !== 'log') return
  const { metrics } = event
  console.log(`step ${event.step}: right ${percent(metrics['rewards/checked/mean']!)}, one word ${percent(metrics['rewards/oneWord/mean']!)}, without a verdict ${metrics['rewards/checked/failed']!.toFixed(0)}`)
})
const before = await rightAnswers(training.model, training.tokenizer, heldOut)
await training.train()
console.log(`held-out questions answered right: ${percent(before)} → ${percent(await rightAnswers(training.model, training.tokenizer, heldOut))}`)
training.dispose()
training.model.dispose()
service.closeAllConnections()
service.close()
