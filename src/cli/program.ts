import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { bestOfNCommand } from './commands/bestOfN.ts'
import { chatCommand } from './commands/chat.ts'
import { distillCommand } from './commands/distill.ts'
import { evalCommand } from './commands/eval.ts'
import { exportCommand } from './commands/export.ts'
import { fillMaskCommand } from './commands/fillMask.ts'
import { generateCommand } from './commands/generate.ts'
import { infoCommand } from './commands/info.ts'
import { inspectCommand } from './commands/inspect.ts'
import { preferenceCommands } from './commands/preference.ts'
import { pretrainCommand } from './commands/pretrain.ts'
import { quantizeCommand } from './commands/quantize.ts'
import { quickstartCommand } from './commands/quickstart.ts'
import { reinforcementCommands } from './commands/reinforcement.ts'
import { scoreCommand } from './commands/score.ts'
import { sftCommand } from './commands/sft.ts'
import { teachCommand } from './commands/teach.ts'
import { tokenizerCommand } from './commands/tokenizer.ts'
import { mergeCommand } from './commands/merge.ts'
import { normaliseArguments, unknownCommand } from './flags.ts'
import { handleInterrupts, type RunningCommand } from './interrupt.ts'
import { reportError } from './run.ts'

/** `tokenizer train`, but not the program itself. */
const nameOf = (command: Command): string => command.parent?.parent ? `${nameOf(command.parent)} ${command.name()}` : command.name()

/** The command line, from its arguments to the exit code. Signals are handled before anything else is done. */
export async function runProgram(args: readonly string[]): Promise<void> {
  let running: RunningCommand | undefined
  handleInterrupts(() => running)
  // A reader such as `head` may leave early; that is no error.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0)
    throw error
  })
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
  const program = new Command('anneal')
    .description('LLM training for TypeScript: pretraining, SFT, RL and distillation')
    .version(version)
    .showSuggestionAfterError()
    .exitOverride()
    .action((_options, command: Command) => {
      const name = command.args[0]
      if (name !== undefined) throw new CommanderError(1, 'anneal.unknownCommand', unknownCommand(name, command))
      command.outputHelp()
    })
    .allowExcessArguments()
    // Every command that trains has a dry run.
    .hook('preAction', (_, command) => { running = { name: nameOf(command), trains: command.options.some(({ long }) => long === '--dry-run') } })
  for (const command of [quickstartCommand(), infoCommand(), tokenizerCommand(), pretrainCommand(), sftCommand(), ...preferenceCommands(), scoreCommand(), distillCommand(), teachCommand(), ...reinforcementCommands(), bestOfNCommand(), generateCommand(), chatCommand(), fillMaskCommand(), evalCommand(), exportCommand(), quantizeCommand(), mergeCommand(), inspectCommand()]) {
    program.addCommand(command.exitOverride())
  }

  try {
    await program.parseAsync(normaliseArguments(args), { from: 'user' })
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.code === 'anneal.unknownCommand') process.stderr.write(`error: ${error.message}\n`)
      process.exitCode = error.exitCode
    } else {
      process.exitCode = reportError(error)
    }
  }
}
