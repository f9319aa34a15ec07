// Writes docs/api/ from the declarations and doc comments of what anneal exports; --check only compares.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { docOf, exportsOfAnneal, root } from './api.js'

const folders = {
  errors: 'Errors', tensor: 'Tensors and devices', ops: 'Operations', nn: 'Modules', files: 'Files', models: 'Models', adapters: 'Adapters', tokenizers: 'Tokenizers', data: 'Data',
  optim: 'Optimizers and schedules', train: 'Training', generate: 'Generation', eval: 'Evaluation', quantization: 'Quantisation', export: 'Export', rewards: 'Rewards', methods: 'Methods',
}
const pages = [...Object.keys(folders).slice(0, -1), 'methods', 'preference', 'reinforcement', 'distillation']
const titles = { ...folders, preference: 'Methods: preferences', reinforcement: 'Methods: rewards', distillation: 'Methods: distillation' }
const has = (node, kind) => node.modifiers?.some((modifier) => modifier.kind === kind) ?? false
const oneLine = (text) => text.replace(/\s*\n\s*/g, ' ').trim()
const isHidden = (node) => has(node, ts.SyntaxKind.PrivateKeyword) || has(node, ts.SyntaxKind.OverrideKeyword) || (node.name && ts.isPrivateIdentifier(node.name)) || (docOf(node) ?? '').includes('@internal')

/** What stands before a body: name, parameters, result. */
const head = (node) => oneLine((node.body ? node.getSourceFile().text.slice(node.getStart(), node.body.pos) : node.getText()).replace(/[;,]$/, '')).replace(/^export (?:default )?/, '')

/** A value: its type where it is written, the parameters of an arrow function, or what kind of thing it is. */
function valueText(declaration) {
  const { name, type, initializer } = declaration
  if (type) return `const ${name.text}: ${oneLine(type.getText())}`
  if (initializer && ts.isArrowFunction(initializer)) return `${head({ ...initializer, getText: () => initializer.getText(), getStart: () => initializer.getStart(), getSourceFile: () => initializer.getSourceFile(), body: initializer.body }).replace(/\s*=>$/, '').replace(/^(async )?/, `$1function ${name.text}`)}`
  const text = oneLine(initializer?.getText() ?? '')
  if (/^z\./.test(text)) return `const ${name.text}: zod schema`
  return `const ${name.text} = ${text.length > 160 ? `${text.slice(0, 157)}…` : text}`
}

/** The members of a class or an interface, one a line with its comment. */
function members(node) {
  return node.members.filter((member) => !isHidden(member) && !ts.isClassStaticBlockDeclaration(member) && !ts.isSemicolonClassElement(member)).map((member) => {
    const isValue = ts.isPropertyDeclaration(member) && member.initializer
    const text = isValue ? oneLine(`${member.modifiers?.map((one) => one.getText()).join(' ') ?? ''} ${member.name.getText()}${member.type ? `: ${member.type.getText()}` : ''}`) : head(member)
    return { text, doc: docOf(member) }
  })
}

const sentence = (doc) => oneLine((doc ?? '').replaceAll('\n', ' ').replaceAll(/\{@link (\w+)\}/g, '`$1`').replace(/\s*@throws /g, ' Throws ').replace(/\s*@internal/g, ''))

function entry({ name, declarations, doc }) {
  const lines = [`### ${name}`, '']
  const [{ declaration }] = declarations
  const isShape = ts.isInterfaceDeclaration(declaration) || ts.isClassDeclaration(declaration)
  const code = isShape
    ? [oneLine(declaration.getSourceFile().text.slice(declaration.getStart(), declaration.members.pos).replace(/^export /, '').replace(/\{\s*$/, ''))]
    : declarations.filter((one) => declarations.length === 1 || !one.statement.body).map((one) => (ts.isVariableDeclaration(one.declaration) ? valueText(one.declaration) : head(one.statement)))
  const shown = code.map((line) => line.replace(new RegExp(`\\b${declaration.name.text}\\b`), name))
  lines.push('```ts', ...shown, '```', '', sentence(doc), '')
  if (isShape) {
    const inner = members(declaration)
    for (const { text, doc: about } of inner) lines.push(`- \`${text}\`${about ? ` — ${sentence(about)}` : ''}`)
    if (inner.length > 0) lines.push('')
  }
  return lines.join('\n')
}

/** The pages by file name. */
export function apiPages() {
  const all = exportsOfAnneal()
  const pageOf = ({ path, folder }) => { const inner = /^methods\/(preference|reinforcement|distillation)\//.exec(path); return inner ? inner[1] : folder }
  const byPage = Map.groupBy ? Map.groupBy(all, pageOf) : all.reduce((map, one) => map.set(pageOf(one), [...map.get(pageOf(one)) ?? [], one]), new Map())
  const result = {}
  for (const page of pages) {
    const sorted = (byPage.get(page) ?? []).sort((a, b) => (a.name.toLowerCase() < b.name.toLowerCase() ? -1 : 1))
    result[`${page}.md`] = [`# ${titles[page]}`, '', 'Made from the doc comments of the sources by `npm run docs:api`.', '', ...sorted.map(entry)].join('\n').trimEnd() + '\n'
  }
  const index = pages.map((page) => `- [${titles[page]}](${page}.md): ${(byPage.get(page) ?? []).map(({ name }) => name).sort().map((name) => `[${name}](${page}.md#${name.toLowerCase()})`).join(', ')}`)
  result['README.md'] = ['# What anneal exports', '', `${all.length} names, all from \`anneal\`. Made from the doc comments of the sources by \`npm run docs:api\`. Options of methods are explained on the methods' pages.`, '', ...index, ''].join('\n')
  return result
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = join(root, 'docs/api')
  const written = apiPages()
  const check = process.argv.includes('--check')
  if (!check) mkdirSync(folder, { recursive: true })
  for (const name of existsSync(folder) ? readdirSync(folder) : []) if (!(name in written) && !check) rmSync(join(folder, name))
  for (const [name, text] of Object.entries(written)) {
    const path = join(folder, name)
    if (!check) writeFileSync(path, text)
    else if (!existsSync(path) || readFileSync(path, 'utf8') !== text) {
      console.error(`docs/api/${name} does not match the sources; run npm run docs:api`)
      process.exitCode = 1
    }
  }
}
