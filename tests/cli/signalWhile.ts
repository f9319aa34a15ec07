// Runs the anneal command and sends this process signals once it does something: `signalWhile.ts <activity> <signal[+signal]> <arguments…>`.
// The activity is the beginning of what activities() says, with what it keeps; a second signal comes when the first was answered.
import { activities } from '../../src/activity.ts'

const [wanted, signals, ...args] = process.argv.slice(2) as [string, string, ...string[]]
process.argv.splice(2, Infinity, ...args)

const left = signals.split('+') as NodeJS.Signals[]
const look = (): void => {
  const running = activities().at(-1)
  if (!running || !`${running.what}; ${running.kept?.() ?? ''}`.startsWith(wanted)) {
    setImmediate(look)
    return
  }
  process.kill(process.pid, left.shift())
  // The handler of the first runs in a later turn of the event loop.
  if (left.length > 0) setTimeout(() => { process.kill(process.pid, left.shift()) }, 20)
}
look()
await import('../../src/cli/main.ts')
