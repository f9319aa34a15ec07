import { Worker } from 'node:worker_threads'
import { ConfigError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import { rewardEach, type AnyRow, type RewardFunction } from './types.ts'

/** What code that is run for a reward may use. */
export interface CodeLimits {
  /** Milliseconds for the code and all its tests. Default 2000. */
  timeLimit?: number
  /** Of the JavaScript heap, in megabytes. Default 64. */
  memoryLimit?: number
}

/** What the reward by tests of code takes. */
export interface CodeTestOptions<Row = AnyRow> extends CodeLimits {
  /** The column with the tests, or a function that gives them: statements that throw where the code is wrong. `assert` and `assert.equal` are there. Default 'tests'. */
  tests?: (keyof Row & string) | ((row: Row) => readonly string[])
  /** 'share' (default) gives the share of tests passed, 'all' 1 only where every test passes. */
  scoring?: 'share' | 'all'
}

/** What came of running code against tests. */
export interface CodeResult {
  /** Whether each test passed. None does where the code itself throws or a limit is reached. */
  passed: boolean[]
  /** Why the code did not run to its end. */
  error?: string
}

// Runs inside the worker, as text, since dist and src have it under other names.
const program = `
const { parentPort, workerData } = require('node:worker_threads')
const vm = require('node:vm')
const context = vm.createContext(Object.create(null), { codeGeneration: { strings: false, wasm: false } })
const library = \`
  globalThis.console = Object.freeze({ log() {}, info() {}, warn() {}, error() {}, debug() {} })
  globalThis.assert = (value, message) => { if (!value) throw new Error(message ?? 'assertion failed') }
  const text = (value) => JSON.stringify(value, (key, one) => typeof one === 'number' && !Number.isFinite(one) ? String(one) : one === undefined ? 'undefined' : one)
  assert.equal = (a, b, message) => { if (!Object.is(a, b) && text(a) !== text(b)) throw new Error(message ?? text(a) + ' is not ' + text(b)) }
  Object.freeze(assert)
\`
;(async () => {
  vm.runInContext('{' + library + '}', context)
  vm.runInContext(workerData.code, context)
  const passed = []
  for (const test of workerData.tests) {
    try {
      await vm.runInContext('(async () => {' + test + '\\n})()', context)
      passed.push(true)
    } catch {
      passed.push(false)
    }
  }
  parentPort.postMessage({ passed })
})().catch((error) => parentPort.postMessage({ error: String(error && error.message || error) }))
`

/**
 * Runs JavaScript and its tests in a worker thread, in a context of its own without require, process, timers or network. What this protects from: endless
 * loops and runaway heaps, which end the worker and not the process; globals and prototypes changed by one answer and seen by the next. What it does NOT
 * protect from: code that means harm. Node's contexts are no security boundary, the worker is part of this process and has its rights, and memory outside
 * the JavaScript heap (typed arrays) is not limited. Train on answers of models you do not trust inside a container or a virtual machine.
 */
export async function runCodeTests(code: string, tests: readonly string[], limits: CodeLimits = {}, signal?: AbortSignal): Promise<CodeResult> {
  const { timeLimit = 2000, memoryLimit = 64 } = givenOptions('runCodeTests', limits, 'timeLimit: 2000')
  const none = tests.map(() => false)
  const worker = new Worker(program, {
    eval: true, workerData: { code, tests: [...tests] }, env: {}, execArgv: [], stdin: false, stdout: true, stderr: true,
    resourceLimits: { maxOldGenerationSizeMb: memoryLimit, maxYoungGenerationSizeMb: Math.max(1, Math.ceil(memoryLimit / 4)), stackSizeMb: 2 },
  })
  let timer: NodeJS.Timeout | undefined
  let onAbort: (() => void) | undefined
  try {
    return await new Promise<CodeResult>((resolve) => {
      const fail = (error: string): void => { resolve({ passed: none, error }) }
      timer = setTimeout(() => { fail(`took longer than ${timeLimit} ms`) }, timeLimit)
      onAbort = () => { fail('stopped') }
      signal?.addEventListener('abort', onAbort, { once: true })
      worker.once('message', (result: { passed?: boolean[], error?: string }) => { if (result.passed) resolve({ passed: result.passed }); else fail(result.error ?? 'failed') })
      worker.once('error', (error: Error & { code?: string }) => { fail(error.code === 'ERR_WORKER_OUT_OF_MEMORY' ? `needs more than ${memoryLimit} MB` : error.message) })
      worker.once('exit', (exitCode) => { fail(`the worker ended with ${exitCode} before the tests did`) })
    })
  } finally {
    clearTimeout(timer)
    if (onAbort) signal?.removeEventListener('abort', onAbort)
    await worker.terminate()
  }
}

/** The first fenced block of code, or all of the text. */
const codeOf = (completion: string): string => /```(?:js|javascript)?\s*\n([\s\S]*?)```/.exec(completion)?.[1] ?? completion

/** Runs the completion (or the first fenced block of it) as JavaScript against the row's tests; see runCodeTests for what that does and does not protect from. */
export function codeTests<Row = AnyRow>({ tests = 'tests' as keyof Row & string, scoring = 'share', ...limits }: CodeTestOptions<Row> = {}): RewardFunction<Row> {
  return rewardEach<Row>('codeTests', async ({ completion, row }, { signal }) => {
    const list: unknown = typeof tests === 'function' ? tests(row) : (row as AnyRow)[tests]
    if (!Array.isArray(list) || list.length === 0 || list.some((one) => typeof one !== 'string')) throw new ConfigError(`codeTests: ${typeof tests === 'string' ? `the column ${JSON.stringify(tests)}` : 'tests'}: expected a list of one or more texts of JavaScript`)
    const { passed } = await runCodeTests(codeOf(completion), list as string[], limits, signal)
    const right = passed.filter(Boolean).length
    return scoring === 'all' ? Number(right === passed.length) : right / passed.length
  })
}
