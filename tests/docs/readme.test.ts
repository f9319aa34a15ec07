// Proves that the documents are true where a program can tell: examples, commands, flags, options, names, links and generated tables.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Command } from 'commander'
import { describe, expect, test } from 'vitest'
import { bestOfNCommand } from '../../src/cli/commands/bestOfN.ts'
import { chatCommand } from '../../src/cli/commands/chat.ts'
import { distillCommand } from '../../src/cli/commands/distill.ts'
import { evalCommand } from '../../src/cli/commands/eval.ts'
import { exportCommand } from '../../src/cli/commands/export.ts'
import { fillMaskCommand } from '../../src/cli/commands/fillMask.ts'
import { generateCommand } from '../../src/cli/commands/generate.ts'
import { infoCommand } from '../../src/cli/commands/info.ts'
import { inspectCommand } from '../../src/cli/commands/inspect.ts'
import { mergeCommand } from '../../src/cli/commands/merge.ts'
import { preferenceCommands } from '../../src/cli/commands/preference.ts'
import { pretrainCommand } from '../../src/cli/commands/pretrain.ts'
import { quantizeCommand } from '../../src/cli/commands/quantize.ts'
import { quickstartCommand } from '../../src/cli/commands/quickstart.ts'
import { reinforcementCommands } from '../../src/cli/commands/reinforcement.ts'
import { scoreCommand } from '../../src/cli/commands/score.ts'
import { sftCommand } from '../../src/cli/commands/sft.ts'
import { teachCommand } from '../../src/cli/commands/teach.ts'
import { tokenizerCommand } from '../../src/cli/commands/tokenizer.ts'
import { normaliseArguments } from '../../src/cli/flags.ts'
import { adapterSchema } from '../../src/adapters/index.ts'
import { exportSchema, mergeSchema } from '../../src/export/index.ts'
import { generateSchema } from '../../src/generate/index.ts'
import * as anneal from '../../src/index.ts'
import { distillSchema, teachSchema } from '../../src/methods/distillation/options.ts'
import { pretrainSchema, sftSchema } from '../../src/methods/options.ts'
import { cpoSchema, dpoSchema, ktoSchema, orpoSchema, rewardSchema, rrhfSchema, tpoSchema } from '../../src/methods/preference/options.ts'
import { bestOfNSchema, grpoSchema, onlineDpoSchema, ppoSchema, rlooSchema } from '../../src/methods/reinforcement/index.ts'
import { quantizeFolderSchema } from '../../src/quantization/index.ts'

const preferenceSchemas = { dpo: dpoSchema, kto: ktoSchema, orpo: orpoSchema, cpo: cpoSchema, tpo: tpoSchema, rrhf: rrhfSchema, reward: rewardSchema }
const root = join(import.meta.dirname, '../..')
const read = (file: string): string => readFileSync(join(root, file), 'utf8')
const documents = ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', ...readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)]
const commands = new Map<string, Command>()
for (const command of [
  chatCommand(), evalCommand(), exportCommand(), fillMaskCommand(), generateCommand(), infoCommand(), inspectCommand(), pretrainCommand(), quantizeCommand(), quickstartCommand(), sftCommand(), distillCommand(), teachCommand(), tokenizerCommand(),
  ...preferenceCommands(), scoreCommand(), ...reinforcementCommands(), bestOfNCommand(), mergeCommand(),
]) {
  if (command.commands.length === 0) commands.set(command.name(), command)
  for (const inner of command.commands) commands.set(`${command.name()} ${inner.name()}`, inner)
}
const flagsOf = (command: Command): string[] => [...command.options.map(({ long }) => long!), '--help']

/** Everything between backticks, blocks line by line. */
function codeOf(text: string): string[] {
  const blocks = [...text.matchAll(/^```\w*\n([\s\S]*?)^```/gm)].flatMap(([, body]) => body!.split('\n'))
  const inline = [...text.replaceAll(/^```\w*\n[\s\S]*?^```/gm, '').matchAll(/`([^`\n]+)`/g)].map(([, body]) => body!)
  return [...blocks, ...inline]
}

test("the README's program is examples/sft.ts, of 20 lines", () => {
  const [, program] = /```ts\n([\s\S]*?)```/.exec(read('README.md'))!
  expect(program).toBe(read('examples/sft.ts'))
  expect(program!.trim().split('\n').length).toBeLessThanOrEqual(20)
})

describe.each(documents)('%s', (document) => {
  const text = read(document)

  test('names commands and flags that exist', () => {
    for (const code of codeOf(text)) {
      const call = /^(?:anneal|node dist\/cli\/main\.js) ([a-z].*)$/.exec(code)
      if (call) {
        const name = [...commands.keys()].find((known) => `${call[1]!} `.startsWith(`${known} `))
        expect(name, code).toBeDefined()
        const flags = normaliseArguments(call[1]!.split(/\s+/)).filter((word) => word.startsWith('--')).map((word) => word.split('=')[0]!)
        for (const flag of flags) expect(flagsOf(commands.get(name!)!), code).toContain(flag)
      } else if (/^--[a-z]/i.test(code)) {
        const known = [...[...commands.values()].flatMap(flagsOf), ...read('bench/main.ts').match(/--[a-z]+/g) ?? []]
        expect(known, code).toContain(normaliseArguments([code.split(/\s+/)[0]!])[0])
      }
    }
  })

  test('names scripts of package.json that exist', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    for (const code of codeOf(text)) for (const [, name] of code.matchAll(/npm run ([\w:]+)/g)) expect(Object.keys(scripts), code).toContain(name)
  })

  test('links to files, and names files, that exist', () => {
    for (const [, link] of text.matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)) expect(existsSync(join(root, dirname(document), link!)), link).toBe(true)
    for (const code of codeOf(text)) {
      for (const [path] of code.matchAll(/\b(?:native|src|tests|bench|lib|examples|scripts|docs)\/[\w./-]+\.(?:ts|mts|py|js|sh|md|cc|h|json|def)\b/g)) expect(existsSync(join(root, path)), code).toBe(true)
    }
  })

  test('imports what anneal exports', () => {
    for (const [code, names] of text.matchAll(/^import \{([^}]+)\} from 'anneal'/gm)) {
      const values = names!.split(',').map((name) => name.trim()).filter((name) => name && !name.startsWith('type '))
      expect(Object.keys(anneal), code).toEqual(expect.arrayContaining(values))
    }
  })

  test('tells no machine paths', () => {
    expect(text).not.toMatch(/\/(?:work|tmp|home|root)\//)
  })
})

test("the table of names names what exists", () => {
  const prototypes = [anneal.Tokenizer, anneal.Trainer, anneal.CausalLanguageModel, anneal.PretrainedModel, anneal.Module, anneal.AdamW].flatMap((one) => Object.getOwnPropertyNames(one.prototype))
  const fields = ['optimizer', 'step', 'model', 'tokenizer', 'train', 'fromConfig', 'fromPretrained']
  const schemas = [
    sftSchema, pretrainSchema, generateSchema, distillSchema, teachSchema, ...Object.values(preferenceSchemas), grpoSchema, rlooSchema, ppoSchema, onlineDpoSchema, bestOfNSchema, quantizeFolderSchema, exportSchema, mergeSchema, ...adapterSchema.options,
  ]
  const options = schemas.flatMap(({ shape }) => Object.keys(shape))
  const known = new Set([...Object.keys(anneal), ...prototypes, ...fields, ...options])
  const [, table] = /\n## Names\n([\s\S]*?)\n## /.exec(read('README.md'))!
  const rows = table!.split('\n').filter((line) => line.startsWith('| ')).slice(1)
  expect(rows.length).toBeGreaterThan(40)
  for (const row of rows) {
    const ours = row.split(' | ').at(-1)!
    for (const [, code] of ours.matchAll(/`([^`]+)`/g)) {
      if (code!.startsWith('anneal ')) expect([...commands.keys()], row).toContain(code!.split(' ')[1])
      else expect([...known], row).toContain(code!.replace(/\(.*$/, '').split('.').at(-1))
    }
  }
})

test('the tables of options are those of the schemas', async () => {
  const script = await import(pathToFileURL(join(root, 'scripts/generate-options-doc.js')).href) as {
    documents: string[], optionTables: (schemas: object) => Record<string, string>, withTables: (text: string, tables: Record<string, string>) => string,
  }
  const tables = script.optionTables({ sftSchema, pretrainSchema, generateSchema, distillSchema, teachSchema, quantizeFolderSchema, exportSchema, preferenceSchemas, policySchemas: { grpo: grpoSchema, rloo: rlooSchema, ppo: ppoSchema, onlineDpo: onlineDpoSchema, bestOfN: bestOfNSchema }, adapterSchema })
  expect(Object.keys(tables).sort()).toEqual(script.documents.flatMap((document) => [...read(document).matchAll(/<!-- options: (\w+) -->/g)].map(([, name]) => name!)).sort())
  for (const document of script.documents) expect(read(document) === script.withTables(read(document), tables), `${document}: run node scripts/generate-options-doc.js`).toBe(true)
})
