// Proves that whoever calls a function of anneal with something else than an object of options learns which function it was and what it takes.
import { pathToFileURL } from 'node:url'
import { join } from 'node:path'
import ts from 'typescript'
import { expect, test } from 'vitest'
import * as anneal from '../src/index.ts'

const root = join(import.meta.dirname, '..')
const { exportsOfAnneal } = await import(pathToFileURL(join(root, 'scripts/api.js')).href) as { exportsOfAnneal: () => { name: string, declarations: { declaration: ts.Node }[] }[] }

/** A function that gives a promise or yields asynchronously, and which of its parameters are options. */
interface Taker { name: string, at: number, optional: boolean, call: (...args: unknown[]) => unknown }

const isAsync = (node: ts.SignatureDeclaration): boolean =>
  (ts.canHaveModifiers(node) && (ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.AsyncKeyword) ?? false)) || /^(Promise|AsyncGenerator|AsyncIterable)</.test(node.type?.getText() ?? '')

/** Options are named so, or taken apart where they arrive. */
const isOptions = ({ name, type }: ts.ParameterDeclaration): boolean =>
  ts.isObjectBindingPattern(name) || /^(options|input|request|run|context|config|settings)$/.test(name.getText()) || /^\w*(Options|Input|Config)\b/.test(type?.getText() ?? '')

function* takersOf(name: string, node: ts.SignatureDeclaration, call: Taker['call']): Generator<Taker> {
  if (!isAsync(node)) return
  for (const [at, parameter] of node.parameters.entries()) {
    if (isOptions(parameter)) yield { name, at, optional: parameter.initializer !== undefined || parameter.questionToken !== undefined, call }
  }
}

function* takers(): Generator<Taker> {
  const values = anneal as Record<string, unknown>
  const member = (name: string, own: ts.NodeArray<ts.ClassElement | ts.ObjectLiteralElementLike>, of: Record<string, unknown>, prototype: Record<string, unknown>): Taker[] => own.flatMap((one) => {
    const made = ts.isPropertyAssignment(one) && ts.isArrowFunction(one.initializer) ? one.initializer : one
    if (!(ts.isMethodDeclaration(made) || ts.isArrowFunction(made)) || !one.name || !ts.isIdentifier(one.name) || made.body === undefined) return []
    const isStatic = !ts.isClassLike(one.parent) || (ts.canHaveModifiers(one) && (ts.getModifiers(one)?.some(({ kind }) => kind === ts.SyntaxKind.StaticKeyword) ?? false))
    const called = one.name.text
    return [...takersOf(`${name}.${called}`, made, (...args) => isStatic ? (of[called] as Taker['call'])(...args) : Reflect.apply(prototype[called] as Taker['call'], Object.create(prototype), args))]
  })
  for (const { name, declarations } of exportsOfAnneal()) {
    const value = values[name]
    for (const { declaration } of declarations) {
      const made = ts.isVariableDeclaration(declaration) ? declaration.initializer : declaration
      if (!made || value === undefined) continue
      if (ts.isFunctionDeclaration(made) || ts.isArrowFunction(made)) { if (made.body) yield* takersOf(name, made, value as Taker['call']) }
      else if (ts.isClassDeclaration(made)) yield* member(name, made.members, value as Record<string, unknown>, (value as { prototype: Record<string, unknown> }).prototype)
      else if (ts.isObjectLiteralExpression(made)) yield* member(name, made.properties, value as Record<string, unknown>, {})
    }
  }
}

const all = [...takers()]

/** How a call ends, also where it begins with what an asynchronous iteration gives. */
async function outcome(call: () => unknown): Promise<unknown> {
  try {
    const result: unknown = call()
    const started = result !== null && typeof result === 'object' && Symbol.asyncIterator in result ? (result as AsyncGenerator).next() : result
    if (!(started instanceof Promise)) return new Error('it gave no promise')
    return await started.then(() => new Error('it was fulfilled'), (error: unknown) => error)
  } catch (error) {
    return new Error('it threw instead of rejecting', { cause: error })
  }
}

test('the search finds functions, methods and static ones', () => {
  const names = new Set(all.map(({ name }) => name))
  for (const known of ['sft', 'grpo', 'dpo', 'pretrain', 'generate', 'stream', 'score', 'loadDataset', 'Trainer.train', 'AutoModelForTokenClassification.fromPretrained', 'AutoModelForCausalLM.fromPretrained', 'PretrainedModel.savePretrained']) expect(names).toContain(known)
  expect(all.length).toBeGreaterThan(55)
})

const wrong: [text: string, value: unknown][] = [['undefined', undefined], ['null', null], ['"x"', 'x'], ['7', 7], ['an array', []], ['a function', () => undefined]]

test.each(all)('$name, parameter $at', async ({ name, at, optional, call }) => {
  const method = name.split('.').at(-1)!
  for (const [text, value] of wrong) {
    if (optional && value === undefined) continue
    // What stands before the options is not looked at before them.
    const error = await outcome(() => call(...Array.from({ length: at }, () => ({})), value))
    expect(error, `${name}(${text})`).toBeInstanceOf(anneal.ConfigError)
    const { message } = error as Error
    expect(message).toContain(method)
    expect(message).toMatch(/: expected an object of options, such as \{ \w+.* \}, got /)
    expect(message.endsWith(`got ${text}`), message).toBe(true)
  }
})
