// Runs the compiled anneal command in a process of its own.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export interface Outcome { code: number | null, stdout: string, stderr: string }

export interface Running { ended: Promise<Outcome>, signal(name: NodeJS.Signals): void, /** Resolves once the output holds this. */ saw(text: string): Promise<void> }

export function start(args: readonly string[], { cwd, input }: { cwd: string, input?: string }): Running {
  if (!existsSync(main)) throw new Error('dist/cli/main.js is missing; run npm run build:ts')
  const child = spawn(process.execPath, [main, ...args], { cwd, env: { ...process.env, NO_COLOR: '1', ANNEAL_CACHE: `${cwd}/cache` } })
  let [stdout, stderr] = ['', '']
  const waiting: { text: string, resolve: () => void }[] = []
  const look = (): void => { for (const { text, resolve } of waiting) if (stdout.includes(text) || stderr.includes(text)) resolve() }
  child.stdout.on('data', (piece: Buffer) => { stdout += piece.toString(); look() })
  child.stderr.on('data', (piece: Buffer) => { stderr += piece.toString(); look() })
  child.stdin.end(input)
  return {
    ended: new Promise((resolve) => { child.on('close', (code) => { for (const one of waiting) one.resolve(); resolve({ code, stdout, stderr }) }) }),
    signal: (name) => { child.kill(name) },
    saw: (text) => new Promise<void>((resolve) => { waiting.push({ text, resolve }); look() }),
  }
}

export const anneal = (args: readonly string[], options: { cwd: string, input?: string }): Promise<Outcome> => start(args, options).ended
