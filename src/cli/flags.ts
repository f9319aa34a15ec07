import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { isMap, isNode, isScalar, isSeq, LineCounter, parse, parseDocument } from 'yaml'
import type { Document } from 'yaml'
import { z } from 'zod'
import { ConfigError, FileAccessError } from '../errors.ts'
import { describeIssue } from '../options.ts'
import { didYouMean } from '../suggest.ts'

// One zod schema per command gives its flags, checks its YAML file and types its options.

type JsonSchema = { type?: string; enum?: unknown[]; const?: unknown; anyOf?: JsonSchema[]; default?: unknown; description?: string; items?: JsonSchema }

type RawJsonSchema = Omit<JsonSchema, 'type'> & { type?: string | string[] }

/** The JSON schema of each option; `type: [a, b]` is written as alternatives. */
function propertiesOf(schema: z.ZodObject): Record<string, JsonSchema> {
  const { properties } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as { properties: Record<string, RawJsonSchema> }
  return Object.fromEntries(Object.entries(properties).map(([name, { type, ...rest }]) =>
    [name, Array.isArray(type) ? { ...rest, anyOf: type.map((one) => ({ type: one })) } : { ...rest, ...(type === undefined ? {} : { type }) }]))
}

const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
const camel = (name: string): string => name.replace(/[-_]([a-zA-Z])/g, (_, letter: string) => letter.toUpperCase())

/** `--learning_rate`, `--learningRate` and `--learning-rate` are one flag; `--model-config.hidden-size 64` sets a nested option. */
export function normaliseArguments(argv: readonly string[]): string[] {
  const result: string[] = []
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i]!
    const flag = /^--([a-zA-Z][\w.-]*)(?:=([\s\S]*))?$/.exec(argument)
    if (argument === '--') return [...result, ...argv.slice(i)]
    if (!flag) { result.push(argument); continue }
    const [, name, value] = flag as unknown as [string, string, string | undefined]
    if (name.includes('.')) {
      const given = value ?? (argv[i + 1]?.startsWith('--') ? undefined : argv[++i]) ?? 'true'
      result.push('--set', `${name.split('.').map(camel).join('.')}=${given}`)
    } else {
      result.push(`--${kebab(camel(name))}${value === undefined ? '' : `=${value}`}`)
    }
  }
  return result
}

function placeholder(schema: JsonSchema): string {
  if (schema.enum) return schema.enum.map(String).join('|')
  if (schema.anyOf) return [...new Set(schema.anyOf.map(placeholder))].join('|')
  if (schema.const !== undefined) return JSON.stringify(schema.const)
  if (schema.type === 'array') return schema.items?.enum ? `${placeholder(schema.items)},...` : placeholder(schema.items ?? {})
  if (schema.type === 'object') return 'key=value,...'
  return schema.type === 'integer' ? 'number' : schema.type ?? 'value'
}

/** Lists of free text are given by repeating the flag: a prompt may hold commas, and a glob braces. Lists of choices are given with commas. */
const isRepeated = (schema: JsonSchema): boolean => (schema.anyOf ?? [schema]).some(({ type, items }) => type === 'array' && items?.type === 'string' && !items.enum)

const isBoolean = (schema: JsonSchema): boolean => schema.type === 'boolean' || (schema.anyOf?.some(isBoolean) ?? false)

/** Adds a flag for every option of the schema, a positional config file and --set. */
export function addFlags(command: Command, schema: z.ZodObject): Command {
  const properties = propertiesOf(schema)
  command.argument('[config]', 'a YAML file of options; flags override it')
  for (const [name, property] of Object.entries(properties)) {
    const boolean = isBoolean(property)
    const value = property.type === 'boolean' ? '[true|false]' : boolean ? `[${placeholder(property)}]` : `<${placeholder(property)}>`
    const fallback = property.default === undefined ? '' : ` (default: ${JSON.stringify(property.default)})`
    const description = `${property.description ?? ''}${isRepeated(property) ? '; repeat for several' : ''}${fallback}`
    if (isRepeated(property)) command.option(`--${kebab(name)} ${value}`, description, (one: string, all: string[] | undefined) => [...all ?? [], one])
    else {
      const option = command.createOption(`--${kebab(name)} ${value}`, description)
      // Commander takes --no-repeat-ngram-size for the opposite of an option.
      option.negate = false
      command.addOption(option)
    }
  }
  command.option('--set <path=value>', 'any option by its path, such as modelConfig.hiddenSize=256', (one: string, all: string[]) => [...all, one], [])
  return command
}

/** A command line to begin with, below a command's flags. */
export const exampleText = (name: string, flags: string): string => `\nExample:\n  $ anneal ${name} ${flags}`

/** YAML's reading of a flag's text: numbers, true, null, lists. */
function readYaml(text: string, flag: string): unknown {
  try {
    return parse(text) as unknown
  } catch (error) {
    throw new ConfigError(`${flag}: cannot read ${JSON.stringify(text)}: ${(error as Error).message.split('\n')[0]!}`, { cause: error })
  }
}

/** A flag's text as the value that the schema wants there. */
function readValue(text: string | boolean | readonly string[], schema: JsonSchema, flag: string): unknown {
  if (typeof text === 'boolean') return text
  if (typeof text !== 'string') {
    const single = schema.anyOf?.some(({ type }) => type === 'string') ?? false
    return single && text.length === 1 ? text[0] : text
  }
  const alternatives = schema.anyOf ?? [schema]
  if (alternatives.every(({ type }) => type === 'string')) return text
  if (alternatives.some(({ type, items }) => type === 'array' && items?.enum) && !/^\s*\[/.test(text)) return text.split(',').map((one) => one.trim())
  const isObject = alternatives.some(({ type }) => type === 'object')
  if (isObject && alternatives.some(({ type }) => type === 'string') && !/[={]/.test(text)) return text
  if (isObject && !/^\s*\{/.test(text)) {
    return Object.fromEntries(text.split(',').map((pair) => {
      const at = pair.indexOf('=')
      if (at < 1) throw new ConfigError(`${flag}: expected key=value, got ${JSON.stringify(pair)}`)
      return [pair.slice(0, at).trim(), readYaml(pair.slice(at + 1).trim(), flag)]
    }))
  }
  return readYaml(text, flag)
}

const isPlainObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value)

function setPath(target: Record<string, unknown>, assignment: string): void {
  const at = assignment.indexOf('=')
  if (at < 1) throw new ConfigError(`--set: expected path=value, got "${assignment}"`)
  const [first, ...rest] = assignment.slice(0, at).split('.')
  const path = [first!.startsWith('_') ? first! : camel(first!), ...rest]
  if (path.some((part) => part === '__proto__' || part === '')) throw new ConfigError(`--set: "${assignment.slice(0, at)}" names no option`)
  let inner = target
  for (const [depth, part] of path.slice(0, -1).entries()) {
    const next = Object.hasOwn(inner, part) ? inner[part] : (inner[part] = {})
    if (!isPlainObject(next)) throw new ConfigError(`--set: ${path.slice(0, depth + 1).join('.')} holds a value, so it has no ${path.slice(depth + 1).join('.')}`)
    inner = next
  }
  inner[path.at(-1)!] = readYaml(assignment.slice(at + 1), '--set')
}

/** Where a problem's value stands in the YAML file, or its name if that is `unknown`: `config.yaml:7:9: `. */
function placeIn({ file, document, lines }: ConfigFile, path: readonly PropertyKey[], unknown: boolean): string {
  let node: unknown = document.contents
  let place = file
  for (const [depth, part] of path.entries()) {
    let found: unknown
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && (key.value === part || (depth === 0 && camel(String(key.value)) === part)))
      found = pair && depth === path.length - 1 && unknown ? pair.key : pair?.value
    } else if (isSeq(node)) {
      found = node.items[Number(part)]
    }
    if (!isNode(found) || !found.range) break
    const { line, col } = lines.linePos(found.range[0])
    place = `${file}:${line}:${col}`
    node = found
  }
  return `${place}: `
}

interface ConfigFile { file: string; document: Document; lines: LineCounter; options: Record<string, unknown> }

/** Reads a YAML file of options, whose names may be in camelCase, snake_case or kebab-case. */
function readConfigFile(file: string, known: Readonly<Record<string, unknown>>): ConfigFile {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new FileAccessError(`${file}: cannot read the config file; check the path`, { cause: error })
  }
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: true })
  const problem = document.errors[0]
  if (problem) throw new ConfigError(`${file}:${problem.linePos?.[0].line ?? 1}:${problem.linePos?.[0].col ?? 1}: ${problem.message.split('\n')[0]!.replace(/ at line \d+, column \d+:?$/, '')}`)
  let value: unknown
  try {
    value = document.toJS()
  } catch (error) {
    throw new ConfigError(`${file}: ${(error as Error).message}`, { cause: error })
  }
  if (value !== null && !isPlainObject(value)) throw new ConfigError(`${file}: expected options as "name: value" lines`)
  const options: Record<string, unknown> = {}
  const writtenAs = new Map<string, string>()
  for (const [written, one] of Object.entries(value ?? {})) {
    const name = Object.hasOwn(known, written) ? written : camel(written)
    const before = writtenAs.get(name)
    if (before !== undefined) throw new ConfigError(`${file}: ${name} is given twice, as ${before} and as ${written}; keep one`)
    writtenAs.set(name, written)
    options[name] = one
  }
  return { file, document, lines, options }
}

/** The options of a command: the YAML file's, overridden by flags and --set, checked by the schema. Throws ConfigError with every problem. */
export function readOptions<S extends z.ZodObject>(schema: S, configFile: string | undefined, flags: Readonly<Record<string, unknown>>): z.output<S> {
  const properties = propertiesOf(schema)
  const config = configFile === undefined ? undefined : readConfigFile(configFile, properties)
  const options: Record<string, unknown> = { ...config?.options }
  for (const [name, property] of Object.entries(properties)) {
    if (flags[name] !== undefined) options[name] = readValue(flags[name] as string | boolean | string[], property, `--${kebab(name)}`)
  }
  for (const assignment of (flags['set'] as string[] | undefined) ?? []) setPath(options, assignment)
  const parsed = schema.safeParse(options)
  if (parsed.success) return parsed.data
  throw new ConfigError(parsed.error.issues.flatMap((issue) => describeIssue(schema, issue, options).map(({ path, message }) => {
    const given = flags[String(path[0])] !== undefined
    const place = config && !given ? placeIn(config, path, issue.code === 'unrecognized_keys') : ''
    return `${place}${given ? `--${kebab(String(path[0]))}` : path.map(String).join('.')}: ${message}`
  })).join('\n'), { cause: parsed.error })
}

/** Names an unknown command with the closest known one. */
export function unknownCommand(name: string, program: Command): string {
  return `unknown command "${name}"${didYouMean(name, program.commands.map((command) => command.name()))}; see anneal --help`
}
