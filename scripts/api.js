// What anneal exports, read from the sources: each name with its declaration as written and its doc comment.
import { readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

export const root = fileURLToPath(new URL('..', import.meta.url))
const files = new Map()
/** A source file, its exported declarations by name, and what it passes on from others. */
function read(path) {
  let file = files.get(path)
  if (file) return file
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.ES2022, true)
  file = { path, source, own: new Map(), imported: new Map(), passed: [], all: [] }
  files.set(path, file)
  for (const statement of source.statements) {
    const from = statement.moduleSpecifier?.text.startsWith('.') ? join(dirname(path), statement.moduleSpecifier.text) : undefined
    if (ts.isExportDeclaration(statement)) {
      if (!statement.exportClause) file.all.push(from)
      else for (const { name, propertyName } of statement.exportClause.elements) file.passed.push({ name: name.text, original: (propertyName ?? name).text, from })
    } else if (ts.isImportDeclaration(statement) && from && statement.importClause?.namedBindings && ts.isNamedImports(statement.importClause.namedBindings)) {
      for (const { name, propertyName } of statement.importClause.namedBindings.elements) file.imported.set(name.text, { original: (propertyName ?? name).text, from })
    } else if (ts.isVariableStatement(statement)) {
      for (const declaration of statement.declarationList.declarations) if (ts.isIdentifier(declaration.name)) add(file, declaration.name.text, statement, declaration)
    } else if (statement.name) {
      add(file, statement.name.text, statement, statement)
    }
  }
  return file
}
const isExported = (statement) => statement.modifiers?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword) ?? false
const add = (file, name, statement, declaration) => { file.own.set(name, [...file.own.get(name) ?? [], { file, statement, declaration, exported: isExported(statement) }]) }

/** The declarations of a name that a file exports or passes on; empty where it has none. */
function resolve(path, name) {
  const file = read(path)
  const own = file.own.get(name)?.filter(({ exported }) => exported)
  if (own?.length) return own
  const passed = file.passed.find((one) => one.name === name)
  if (passed) {
    if (passed.from) return resolve(passed.from, passed.original)
    const imported = file.imported.get(passed.original)
    return imported ? resolve(imported.from, imported.original) : file.own.get(passed.original) ?? []
  }
  for (const from of file.all) {
    const found = resolve(from, name)
    if (found.length > 0) return found
  }
  return []
}

/** All names that a file exports, in the order of its statements. */
function namesOf(path) {
  const file = read(path)
  const own = [...file.own].filter(([, declarations]) => declarations.some(({ exported }) => exported)).map(([name]) => name)
  return [...new Set([...own, ...file.passed.map(({ name }) => name), ...file.all.flatMap(namesOf)])]
}

/** The text of a doc comment, its lines joined as written; undefined where there is none. */
export function docOf(node) {
  const ranges = ts.getLeadingCommentRanges(node.getSourceFile().text, node.pos) ?? []
  const last = ranges.map(({ pos, end }) => node.getSourceFile().text.slice(pos, end)).filter((text) => text.startsWith('/**')).at(-1)
  return last?.slice(3, -2).split('\n').map((line) => line.replace(/^\s*\*? ?/, '').trimEnd()).join('\n').trim()
}

/** Every export of anneal: name, folder of src/, declarations (of overloads several), and the doc comment. */
export function exportsOfAnneal() {
  const index = join(root, 'src/index.ts')
  return namesOf(index).map((name) => {
    const declarations = resolve(index, name)
    if (declarations.length === 0) throw new Error(`${name}: its declaration was not found`)
    const path = relative(join(root, 'src'), declarations[0].file.path)
    return { name, path, folder: path.includes('/') ? path.slice(0, path.indexOf('/')) : 'errors', declarations, doc: declarations.map(({ statement }) => docOf(statement)).find((doc) => doc) }
  })
}
