#!/usr/bin/env node
// Loads the program, which takes most of the time to start; a signal that comes before it can answer is answered here.
import { exitCodes, signalNames, verbs, type StopSignal } from './signals.ts'

const early = (name: StopSignal): void => {
  process.stderr.write(`${process.stderr.isTTY ? '\n' : ''}${verbs[name]} while starting; nothing was written\n`)
  process.exit(exitCodes[name])
}
for (const name of signalNames) process.on(name, early)
const { runProgram } = await import('./program.ts')
// It begins by answering signals itself: at no moment does nobody.
const running = runProgram(process.argv.slice(2))
for (const name of signalNames) process.off(name, early)
await running
