import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { LineCounter, parse, parseDocument } from 'yaml'
import type { Document } from 'yaml'
import { z } from 'zod'
import { ConfigError, FileAccessError } from '../errors.ts'
import { describeIssue } from '../options.ts'
import { didYouMean } from '../suggest.ts'

// One zod schema per command gives its flags, checks its YAML file and types its options.

type JsonSchema = { type?: string; enum?: unknown[]; anyOf?: JsonSchema[]; default?: unknown; description?: string; items?: JsonSchema }

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
  if (schema.type === 'array') return `${schema.items ? placeholder(schema.items) : 'value'},...`
  if (schema.type === 'object') return 'key=value,...'
  return schema.type === 'integer' ? 'number' : schema.type ?? 'value'
}

const isBoolean = (schema: JsonSchema): boolean => schema.type === 'boolean' || (schema.anyOf?.some(isBoolean) ?? false)

/** Adds a flag for every option of the schema, a positional config file and --set. */
export function addFlags(command: Command, schema: z.ZodObject): Command {
  const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as { properties: Record<string, JsonSchema> }
  command.argument('[config]', 'a YAML file of options; flags override it')
  for (const [name, property] of Object.entries(json.properties)) {
    const boolean = isBoolean(property)
    const value = property.type === 'boolean' ? '[true|false]' : boolean ? `[${placeholder(property)}]` : `<${placeholder(property)}>`
    const fallback = property.default === undefined ? '' : ` (default: ${JSON.stringify(property.default)})`
    command.option(`--${kebab(name)} ${value}`, `${property.description ?? ''}${fallback}`)
  }
  command.option('--set <path=value>', 'any option by its path, such as modelConfig.hiddenSize=256', (one: string, all: string[]) => [...all, one], [])
  return command
}

/** A flag's text as the value that the schema wants there. */
function readValue(text: string | boolean, schema: JsonSchema | undefined): unknown {
  if (text === true) return true
  if (typeof text === 'boolean') return text
  const alternatives = schema?.anyOf ?? (schema ? [schema] : [])
  const only = (type: string): boolean => alternatives.length > 0 && alternatives.every((one) => one.type === type)
  if (only('string')) return text
  if (alternatives.some(({ type }) => type === 'array') && !/^\s*\[/.test(text)) return text.split(',').map((one) => one.trim())
  if (alternatives.some(({ type }) => type === 'object') && !/^\s*\{/.test(text)) {
    return Object.fromEntries(text.split(',').map((pair) => {
      const at = pair.indexOf('=')
      return [pair.slice(0, at).trim(), parse(pair.slice(at + 1).trim()) as unknown]
    }))
  }
  return parse(text) as unknown
}

function setPath(target: Record<string, unknown>, assignment: string): void {
  const at = assignment.indexOf('=')
  if (at < 1) throw new ConfigError(`--set: expected path=value, got "${assignment}"`)
  const path = assignment.slice(0, at).split('.')
  let inner = target
  for (const part of path.slice(0, -1)) inner = (inner[part] ??= {}) as Record<string, unknown>
  inner[path.at(-1)!] = parse(assignment.slice(at + 1)) as unknown
}

/** Where a problem's option stands in the YAML file: `config.yaml:7:9: `. */
function placeIn(file: string, document: Document, lines: LineCounter, path: readonly PropertyKey[]): string {
  for (let depth = path.length; depth > 0; depth--) {
    const node = document.getIn(path.slice(0, depth), true) as { range?: [number, number, number] } | undefined
    if (node?.range) {
      const { line, col } = lines.linePos(node.range[0])
      return `${file}:${line}:${col}: `
    }
  }
  return `${file}: `
}

/** The options of a command: the YAML file's, overridden by flags and --set, checked by the schema. Throws ConfigError with every problem. */
export function readOptions<S extends z.ZodObject>(schema: S, configFile: string | undefined, flags: Readonly<Record<string, unknown>>): z.output<S> {
  const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as { properties: Record<string, JsonSchema> }
  const lines = new LineCounter()
  let document: Document | undefined
  let options: Record<string, unknown> = {}
  if (configFile !== undefined) {
    let text: string
    try {
      text = readFileSync(configFile, 'utf8')
    } catch (error) {
      throw new FileAccessError(`${configFile}: cannot read the config file; check the path`, { cause: error })
    }
    document = parseDocument(text, { lineCounter: lines, prettyErrors: true })
    const problem = document.errors[0]
    if (problem) throw new ConfigError(`${configFile}:${problem.linePos?.[0].line ?? 1}:${problem.linePos?.[0].col ?? 1}: ${problem.message.split('\n')[0]!}`)
    const value = document.toJS() as unknown
    if (value !== null && (typeof value !== 'object' || Array.isArray(value))) throw new ConfigError(`${configFile}: expected options as "name: value" lines`)
    options = Object.fromEntries(Object.entries(value ?? {}).map(([name, one]) => [Object.hasOwn(json.properties, name) ? name : camel(name), one]))
  }
  for (const [name, value] of Object.entries(flags)) {
    if (Object.hasOwn(json.properties, name) && value !== undefined) options[name] = readValue(value as string | boolean, json.properties[name])
  }
  for (const assignment of (flags['set'] as string[] | undefined) ?? []) setPath(options, assignment)
  const parsed = schema.safeParse(options)
  if (parsed.success) return parsed.data
  throw new ConfigError(parsed.error.issues.map((issue) => {
    const { path, message } = describeIssue(schema, issue)
    const given = flags[String(path[0])] !== undefined
    const place = document && configFile !== undefined && !given ? placeIn(configFile, document, lines, path) : ''
    return `${place}${given ? `--${kebab(String(path[0]))}` : path.map(String).join('.')}: ${message}`
  }).join('\n'), { cause: parsed.error })
}

/** Names an unknown command with the closest known one. */
export function unknownCommand(name: string, program: Command): string {
  return `unknown command "${name}"${didYouMean(name, program.commands.map((command) => command.name()))}; see anneal --help`
}
