import { ConfigError } from '../errors.ts'
import { rewardEach, type AnyRow, type RewardFunction } from './types.ts'

/** The part of JSON Schema that jsonValid knows. Annotations (title, description, default, examples, $schema, $id, $comment) are let pass. */
export interface JsonSchema {
  type?: string | readonly string[]
  enum?: readonly unknown[]
  const?: unknown
  properties?: Readonly<Record<string, JsonSchema>>
  required?: readonly string[]
  additionalProperties?: boolean | JsonSchema
  items?: JsonSchema
  minItems?: number
  maxItems?: number
  minLength?: number
  maxLength?: number
  pattern?: string
  minimum?: number
  maximum?: number
  exclusiveMinimum?: number
  exclusiveMaximum?: number
  anyOf?: readonly JsonSchema[]
  allOf?: readonly JsonSchema[]
}

const known = new Set([
  'type', 'enum', 'const', 'properties', 'required', 'additionalProperties', 'items', 'minItems', 'maxItems', 'minLength', 'maxLength', 'pattern', 'minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum',
  'anyOf', 'allOf', 'title', 'description', 'default', 'examples', '$schema', '$id', '$comment',
])
const types = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null']

/** A keyword that is not known would make everything valid that it forbids. */
function checkSchema(schema: JsonSchema, path: string): void {
  const unknown = Object.keys(schema).find((key) => !known.has(key))
  if (unknown !== undefined) throw new ConfigError(`jsonValid: ${path}: the keyword ${JSON.stringify(unknown)} is not supported; supported are ${[...known].slice(0, 18).join(', ')}`)
  const wrong = [schema.type ?? []].flat().find((type) => !types.includes(type))
  if (wrong !== undefined) throw new ConfigError(`jsonValid: ${path}.type: expected one of ${types.join(', ')}, got ${JSON.stringify(wrong)}`)
  for (const [name, one] of Object.entries(schema.properties ?? {})) checkSchema(one, `${path}.properties.${name}`)
  if (schema.items) checkSchema(schema.items, `${path}.items`)
  if (typeof schema.additionalProperties === 'object') checkSchema(schema.additionalProperties, `${path}.additionalProperties`)
  for (const name of ['anyOf', 'allOf'] as const) schema[name]?.forEach((one, i) => { checkSchema(one, `${path}.${name}[${i}]`) })
}

const typeOf = (value: unknown): string => value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value
const hasType = (value: unknown, type: string): boolean => type === 'integer' ? Number.isInteger(value) : typeOf(value) === type
/** Equal whatever the order of keys. */
function equal(a: unknown, b: unknown): boolean {
  if (typeOf(a) !== typeOf(b)) return false
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((one, i) => equal(one, b[i]))
  if (typeof a !== 'object' || a === null) return a === b
  const [x, y] = [a as Record<string, unknown>, b as Record<string, unknown>]
  return Object.keys(x).length === Object.keys(y).length && Object.keys(x).every((key) => Object.hasOwn(y, key) && equal(x[key], y[key]))
}

/** Whether a value is what a schema of the supported part asks for. */
export function satisfies(value: unknown, schema: JsonSchema): boolean {
  const { type, enum: choices, const: only, anyOf, allOf } = schema
  if (type !== undefined && ![type].flat().some((one) => hasType(value, one))) return false
  if (choices && !choices.some((one) => equal(one, value))) return false
  if (Object.hasOwn(schema, 'const') && !equal(only, value)) return false
  if (anyOf && !anyOf.some((one) => satisfies(value, one))) return false
  if (allOf && !allOf.every((one) => satisfies(value, one))) return false
  if (typeof value === 'number') return inRange(value, schema)
  if (typeof value === 'string') {
    const { length } = Array.from(value)
    return length >= (schema.minLength ?? 0) && length <= (schema.maxLength ?? Infinity) && (schema.pattern === undefined || new RegExp(schema.pattern, 'u').test(value))
  }
  if (Array.isArray(value)) return value.length >= (schema.minItems ?? 0) && value.length <= (schema.maxItems ?? Infinity) && (!schema.items || value.every((one) => satisfies(one, schema.items!)))
  return typeof value !== 'object' || value === null || hasProperties(value as Record<string, unknown>, schema)
}

const inRange = (value: number, { minimum = -Infinity, maximum = Infinity, exclusiveMinimum = -Infinity, exclusiveMaximum = Infinity }: JsonSchema): boolean =>
  value >= minimum && value <= maximum && value > exclusiveMinimum && value < exclusiveMaximum

function hasProperties(value: Record<string, unknown>, { properties = {}, required = [], additionalProperties = true }: JsonSchema): boolean {
  if (!required.every((name) => Object.hasOwn(value, name))) return false
  return Object.entries(value).every(([name, one]) => {
    if (Object.hasOwn(properties, name)) return satisfies(one, properties[name]!)
    return typeof additionalProperties === 'boolean' ? additionalProperties : satisfies(one, additionalProperties)
  })
}

/** What `jsonValid` takes. */
export interface JsonOptions<Row = AnyRow> {
  /** What the JSON has to be, or a function of the row that gives it; any JSON by default. */
  schema?: JsonSchema | ((row: Row) => JsonSchema)
  /** For JSON that does not satisfy the schema. Default 0. */
  wrongShape?: number
}

/** The text inside a first ```json fence, or all of it. */
const jsonText = (completion: string): string => /```(?:json)?\s*\n([\s\S]*?)```/.exec(completion)?.[1] ?? completion

/** 1 where the completion, or a ```json block in it, is JSON that satisfies the schema (a documented part of JSON Schema), else 0. */
export function jsonValid<Row = AnyRow>({ schema = {}, wrongShape = 0 }: JsonOptions<Row> = {}): RewardFunction<Row> {
  if (typeof schema === 'object') checkSchema(schema, 'schema')
  return rewardEach<Row>('jsonValid', ({ completion, row }) => {
    let value: unknown
    try {
      value = JSON.parse(jsonText(completion))
    } catch {
      return 0
    }
    const own = typeof schema === 'function' ? schema(row) : schema
    if (typeof schema === 'function') checkSchema(own, 'schema')
    return satisfies(value, own) ? 1 : wrongShape
  })
}
