// Trains inside an HTTP server without blocking it: npx tsx examples/server.ts [port], then
//   curl -N -X POST http://127.0.0.1:8080/train    the events of a run as they come; closing the connection stops it after its step
//   curl http://127.0.0.1:8080/                    answered at any time, with how late the event loop was since the last call (99 of 100 ticks, and the latest)
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { sft } from 'anneal'
import type { PreparedRun } from 'anneal'

const resolution = 5
const delay = monitorEventLoopDelay({ resolution })
delay.enable()
/** A tick that comes on time comes after `resolution` milliseconds. */
const late = (nanoseconds: number): number => Math.max(0, nanoseconds / 1e6 - resolution)
let busy = false
let step = 0

/** Trains a run and hands its events to `send`. */
async function follow(run: PreparedRun, signal: AbortSignal, send: (value: unknown) => void): Promise<void> {
  const stop = run.trainer.on((event) => {
    if ('epoch' in event) step = event.step
    if (event.type !== 'step') send(event)
  })
  try {
    await run.train({ signal })
  } finally {
    stop()
    run.dispose()
    run.model.dispose()
  }
}

const server = createServer((request, response) => {
  // A page of another site must not reach the server through the user's browser.
  if (request.headers.origin !== undefined || !/^(127\.0\.0\.1|localhost)(:\d+)?$/.test(request.headers.host ?? '')) {
    response.writeHead(403).end()
    return
  }
  if (request.method !== 'POST' || request.url !== '/train') {
    response.writeHead(200, { 'content-type': 'application/json' }).end(`${JSON.stringify({ busy, step, lagMilliseconds: { p99: late(delay.percentile(99)), max: late(delay.max) } })}\n`)
    delay.reset()
    return
  }
  if (busy) {
    response.writeHead(409).end('a run is under way\n')
    return
  }
  busy = true
  response.writeHead(200, { 'content-type': 'application/x-ndjson' })
  const send = (value: unknown): void => { response.write(`${JSON.stringify(value)}\n`) }
  const controller = new AbortController()
  response.on('close', () => { controller.abort() })
  sft({
    model: 'anneal-quickstart/pretrained', files: 'anneal-quickstart/instructions.jsonl', outputDir: 'anneal-quickstart/served',
    assistantOnlyLoss: true, maxSteps: 200, perDeviceTrainBatchSize: 16, learningRate: 1e-3, loggingSteps: 5, saveStrategy: 'no',
  })
    .then((run) => follow(run, controller.signal, send))
    .catch((error: unknown) => { send({ type: 'error', message: error instanceof Error ? error.message : String(error) }) })
    .finally(() => {
      busy = false
      response.end()
    })
})
// Only this machine can reach it.
server.listen(Number(process.argv[2] ?? 8080), '127.0.0.1', () => { console.log(`listening on http://127.0.0.1:${(server.address() as AddressInfo).port}`) })
