// Proves that the help of each alignment command ends with a command line that the command itself takes.
import { expect, test } from 'vitest'
import { bestOfNCommand } from '../../src/cli/commands/bestOfN.ts'
import { preferenceCommands } from '../../src/cli/commands/preference.ts'
import { reinforcementCommands } from '../../src/cli/commands/reinforcement.ts'
import { scoreCommand } from '../../src/cli/commands/score.ts'

const commands = [...preferenceCommands(), ...reinforcementCommands(), scoreCommand(), bestOfNCommand()]

test.each(commands.map((command) => [command.name(), command] as const))('%s', async (name, command) => {
  let help = ''
  command.configureOutput({ writeOut: (text) => { help += text } }).outputHelp()
  const line = /\nExample:\n {2}\$ anneal (\S+) (.*)\n$/.exec(help)!
  expect(line[1]).toBe(name)
  let taken: Record<string, unknown> = {}
  command.exitOverride().action((_config: unknown, flags: Record<string, unknown>) => { taken = flags })
  await command.parseAsync(line[2]!.split(' '), { from: 'user' })
  expect(taken).toMatchObject({ model: expect.any(String) as string, files: [expect.any(String)] })
})
