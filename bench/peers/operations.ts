// Single operations in PyTorch: one process that lives as long as the benchmarks and answers a request a line, so that none waits for torch to start.
import { spawn } from 'node:child_process'
import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Input, PeerFormula } from '../../tests/cases/case.ts'
import type { Timing } from '../quiet.ts'
import { keepMemory, offline, python, scriptPath } from './torch.ts'

export interface OperationRequest {
  readonly formula: PeerFormula
  readonly inputs: readonly Input[]
  readonly dtype: string
  readonly backward: boolean
  readonly seconds: number
  readonly limit: number
}
export type Answer = { readonly timing: Timing; readonly failure?: undefined } | { readonly failure: string }

/** Seconds for torch to start and for inputs to be made, and for the call under way at the limit to end. */
const grace = 60

export class TorchOperations {
  readonly label: string
  readonly #tuned: boolean
  readonly #threads: number
  readonly #device: string
  #child: ChildProcessWithoutNullStreams | null = null
  #answered: (answer: Answer) => void = () => undefined

  constructor(label: string, { tuned, threads, device }: { tuned: boolean; threads: number; device: string }) {
    this.label = label
    this.#tuned = tuned
    this.#threads = threads
    this.#device = device
  }

  /** The peers that are installed and whose label matches: eager with the usual malloc, and with one that keeps memory. */
  static installed(labels: RegExp, threads: number, device: string): TorchOperations[] {
    if (!python()) return []
    return [{ label: 'torch', tuned: false }, ...device === 'cpu' ? [{ label: 'torch, tuned malloc', tuned: true }] : []]
      .filter(({ label }) => labels.test(label)).map(({ label, tuned }) => new TorchOperations(label, { tuned, threads, device }))
  }

  #start(): ChildProcessWithoutNullStreams {
    if (this.#child) return this.#child
    const args = [scriptPath('operations.py'), '--threads', String(this.#threads), '--device', this.#device]
    const child = spawn(python()!, args, { env: { ...process.env, ...offline, ...(this.#tuned ? keepMemory : {}) } })
    let said = ''
    child.stderr.on('data', (data: Buffer) => { said = (said + data.toString()).slice(-4000) })
    createInterface({ input: child.stdout }).on('line', (line) => { if (this.#child === child) this.#answered(JSON.parse(line) as Answer) })
    const ended = (reason: string): void => {
      // One that was ended for being late has no request any more.
      if (this.#child !== child) return
      this.#child = null
      this.#answered({ failure: said.trim().split('\n').at(-1) || reason })
    }
    child.on('error', (error) => { ended(error.message) })
    child.on('close', (code) => { ended(`ended with code ${String(code)}`) })
    child.stdin.on('error', () => undefined)
    this.#child = child
    return child
  }

  /** The time of a formula; after the limit and some grace the process is ended, and the next request starts another. */
  async ask(request: OperationRequest): Promise<Answer> {
    const child = this.#start()
    return new Promise((resolve) => {
      const finish = (answer: Answer): void => {
        clearTimeout(timer)
        this.#answered = () => undefined
        resolve(answer)
      }
      const timer = setTimeout(() => {
        this.#child = null
        child.kill('SIGKILL')
        finish({ failure: `took more than ${request.limit + grace} s and was ended` })
      }, 1000 * (request.limit + grace))
      this.#answered = finish
      child.stdin.write(`${JSON.stringify(request)}\n`)
    })
  }

  stop(): void {
    this.#child?.kill()
    this.#child = null
  }
}
