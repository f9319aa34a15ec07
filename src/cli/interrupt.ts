import { activities } from '../activity.ts'
import { endAtOnce, endEarly } from '../files/earlyEnd.ts'
import { exitCodes, signalNames, verbs, type StopSignal } from './signals.ts'

/** Set by the first signal. */
let stopping: StopSignal | undefined
const controller = new AbortController()

/** Aborts on the first SIGINT or SIGTERM; what has something to finish listens to it. */
export const interruptSignal: AbortSignal = controller.signal

/** The exit code after a signal, undefined before one. */
export const interruptCode = (): number | undefined => stopping && exitCodes[stopping]

/** The command that runs, as an interruption tells it. */
export interface RunningCommand { readonly name: string, readonly trains: boolean }

/** A terminal shows ^C where the cursor is. */
const say = (text: string): void => { process.stderr.write(`${process.stderr.isTTY ? '\n' : ''}${text}\n`) }

/** What was cut off and what stays. */
function lastWords(name: StopSignal, command: RunningCommand | undefined): string {
  const running = activities()
  const what = running.at(-1)?.what ?? (command ? `running anneal ${command.name}` : 'starting')
  const kept = running.findLast((activity) => activity.kept)?.kept?.()
  const trained = running.some(({ finish }) => finish !== undefined)
  const nothing = trained ? undefined : command?.trains ? 'nothing was trained' : kept === undefined ? 'nothing was written' : undefined
  return [`${verbs[name]} while ${what}`, kept, nothing].filter((part) => part !== undefined).join('; ')
}

/** From now on SIGINT and SIGTERM end the process with a line that says what was cut off, or after what is to be finished first; a second one ends it at once. */
export function handleInterrupts(command: () => RunningCommand | undefined): void {
  const onSignal = (name: StopSignal): void => {
    const again = stopping !== undefined
    const finish = activities().findLast((activity) => activity.finish !== undefined)?.finish
    stopping ??= name
    controller.abort()
    if (!again && finish !== undefined) {
      say(`${name}: ${finish}; once more to stop at once`)
      return
    }
    if (!again || finish !== undefined) say(lastWords(name, command()))
    if (again) endAtOnce(exitCodes[name])
    void endEarly(exitCodes[name])
  }
  for (const name of signalNames) process.on(name, onSignal)
}
