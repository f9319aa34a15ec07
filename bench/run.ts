// Starts a process with a limit of time and reads the JSON of its last line.
import { spawn } from 'node:child_process'
import type { Command } from './peers/peer.ts'

/** What a process may not take longer than, and why it gave nothing. */
export interface Outcome<T> { readonly value?: T; readonly failure?: string }

const lastLine = (text: string): string => text.trim().split('\n').at(-1) ?? ''
/** What an uncaught error says in Node's and Python's reports. */
const errorLine = (text: string): string => text.split('\n').findLast((line) => /^\S*(Error|Exception)\b/.test(line)) ?? lastLine(text)

/** Kept low, so that the figures of a process with much to say do not fill the memory. */
const most = 1 << 20

/** Ends the process, and with it the measurement, after `limit` seconds. */
export async function runJSON<T>({ command, args, env }: Command, limit: number): Promise<Outcome<T>> {
  return new Promise((resolve) => {
    const child = spawn(command, [...args], { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
    let [stdout, stderr, late] = ['', '', false]
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGKILL')
    }, 1000 * limit)
    child.stdout.on('data', (data: Buffer) => { stdout = (stdout + data.toString()).slice(-most) })
    child.stderr.on('data', (data: Buffer) => { stderr = (stderr + data.toString()).slice(-most) })
    child.on('error', (error) => {
      clearTimeout(timer)
      resolve({ failure: error.message })
    })
    child.on('close', (code) => {
      clearTimeout(timer)
      if (late) resolve({ failure: `took more than ${Math.round(limit)} s and was ended` })
      else if (code !== 0) resolve({ failure: errorLine(stderr) || `ended with code ${String(code)}` })
      else {
        try {
          resolve({ value: JSON.parse(lastLine(stdout)) as T })
        } catch {
          resolve({ failure: `printed no JSON but: ${lastLine(stdout)}` })
        }
      }
    })
  })
}
