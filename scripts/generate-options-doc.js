// Writes the tables of options in docs/ from the schemas that check the options; --check only compares.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { register } from 'tsx/esm/api'
import { z } from 'zod'

const code = (text) => `\`${text}\``
const cell = (text) => text.replaceAll('|', '\\|')
const jsonSchema = (schema) => z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' })

function values(property) {
  if (Array.isArray(property.type)) return property.type.map((type) => values({ ...property, type })).join(', ')
  if (property.enum) return property.enum.map((value) => code(value)).join(', ')
  if (property.const !== undefined) return code(property.const)
  if (property.anyOf) return [...new Set(property.anyOf.map(values))].join(', ')
  if (property.type === 'array') return `list of ${values(property.items ?? {})}`
  return { integer: 'whole number', number: 'number', boolean: '`true`, `false`', string: 'text', null: '`null`', object: 'object' }[property.type] ?? 'any'
}

function table(properties, required) {
  const rows = Object.entries(properties).map(([name, property]) => {
    const fallback = property.default === undefined ? (required.includes(name) ? 'required' : '') : code(JSON.stringify(property.default))
    return `| ${code(name)} | ${cell(values(property))} | ${cell(fallback)} | ${cell(property.description ?? '')} |`
  })
  return ['| option | values | default | meaning |', '|---|---|---|---|', ...rows].join('\n')
}

/** The tables by the name of their place in the documents: what both methods have, what each has of its own, and generation. */
export function optionTables({ sftSchema, pretrainSchema, generateSchema, distillSchema, teachSchema, quantizeFolderSchema, exportSchema, preferenceSchemas, policySchemas, adapterSchema }) {
  const [sft, pretrain, generate, distill, teach] = [sftSchema, pretrainSchema, generateSchema, distillSchema, teachSchema].map(jsonSchema)
  const isShared = (name) => JSON.stringify(sft.properties[name]) === JSON.stringify(pretrain.properties[name])
  const pick = (schema, test) => table(Object.fromEntries(Object.entries(schema.properties).filter(([name]) => test(name))), schema.required ?? [])
  return {
    shared: pick(sft, isShared),
    sft: pick(sft, (name) => !isShared(name)),
    pretrain: pick(pretrain, (name) => !isShared(name)),
    generate: pick(generate, (name) => name !== 'signal'),
    distill: pick(distill, (name) => JSON.stringify(sft.properties[name]) !== JSON.stringify(distill.properties[name])),
    teach: pick(teach, () => true),
    quantize: pick(jsonSchema(quantizeFolderSchema), () => true),
    export: pick(jsonSchema(exportSchema), () => true),
    ...preferenceTables(preferenceSchemas, pick),
    ...policyTables(policySchemas, sft, pick),
    ...adapterTables(adapterSchema, pick),
  }
}

/** What the preference methods share, and what each has of its own, by the methods' names. A reward model has no samples to write. */
function preferenceTables({ reward, ...methods }, pick) {
  const all = Object.fromEntries(Object.entries(methods).map(([name, schema]) => [name, jsonSchema(schema)]))
  const same = (a, b, option) => JSON.stringify(a.properties[option]) === JSON.stringify(b.properties[option])
  const isShared = (option) => Object.values(all).every((schema) => same(schema, all.kto, option))
  const own = Object.entries(all).map(([name, schema]) => [name, pick(schema, (option) => !isShared(option))])
  const rewards = jsonSchema(reward)
  return { preference: pick(all.kto, isShared), ...Object.fromEntries(own), reward: pick(rewards, (option) => !isShared(option) || !same(rewards, all.kto, option)) }
}

/** The options of each kind of adapter that has any, by its type. */
function adapterTables({ options }, pick) {
  const kinds = options.map((schema) => [schema.shape.type.value, pick(jsonSchema(schema), (option) => option !== 'type')])
  return Object.fromEntries(kinds.filter(([type]) => type !== 'bitfit'))
}

/** The options of GRPO, PPO and online DPO beside those of SFT, RLOO's where they are not GRPO's, and all of rejection sampling. */
function policyTables({ grpo, rloo, ppo, onlineDpo, bestOfN }, sft, pick) {
  const [own, other, values, online] = [grpo, rloo, ppo, onlineDpo].map(jsonSchema)
  const differs = (a, b) => (name) => JSON.stringify(a.properties[name]) !== JSON.stringify(b.properties[name])
  return { grpo: pick(own, differs(own, sft)), rloo: pick(other, differs(other, own)), ppo: pick(values, differs(values, sft)), onlineDpo: pick(online, differs(online, sft)), bestOfN: pick(jsonSchema(bestOfN), () => true) }
}

/** The text with each table in its place, between `<!-- options: name -->` and `<!-- end of options -->`. */
export function withTables(text, tables) {
  return text.replace(/(<!-- options: (\w+) -->\n)[\s\S]*?(<!-- end of options -->)/g, (_, open, name, close) => `${open}${tables[name]}\n${close}`)
}

export const documents = ['docs/training.md', 'docs/generation.md', 'docs/distillation.md', 'docs/quantization.md', 'docs/export.md', 'docs/preference.md', 'docs/grpo.md', 'docs/ppo.md', 'docs/online-dpo.md', 'docs/adapters.md', 'docs/virtual-tokens.md']

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  register()
  const { pretrainSchema, sftSchema } = await import('../src/methods/options.ts')
  const { distillSchema, teachSchema } = await import('../src/methods/distillation/options.ts')
  const { generateSchema } = await import('../src/generate/index.ts')
  const { quantizeFolderSchema } = await import('../src/quantization/index.ts')
  const { cpoSchema, dpoSchema, ktoSchema, orpoSchema, rewardSchema, rrhfSchema, tpoSchema } = await import('../src/methods/preference/options.ts')
  const preferenceSchemas = { dpo: dpoSchema, kto: ktoSchema, orpo: orpoSchema, cpo: cpoSchema, tpo: tpoSchema, rrhf: rrhfSchema, reward: rewardSchema }
  const { bestOfNSchema, grpoSchema, onlineDpoSchema, ppoSchema, rlooSchema } = await import('../src/methods/reinforcement/index.ts')
  const { adapterSchema } = await import('../src/adapters/index.ts')
  const { exportSchema } = await import('../src/export/index.ts')
  const tables = optionTables({ sftSchema, pretrainSchema, generateSchema, distillSchema, teachSchema, quantizeFolderSchema, exportSchema, preferenceSchemas, policySchemas: { grpo: grpoSchema, rloo: rlooSchema, ppo: ppoSchema, onlineDpo: onlineDpoSchema, bestOfN: bestOfNSchema }, adapterSchema })
  for (const document of documents) {
    const path = new URL(`../${document}`, import.meta.url)
    const before = readFileSync(path, 'utf8')
    const after = withTables(before, tables)
    if (!process.argv.includes('--check')) writeFileSync(path, after)
    else if (before !== after) {
      console.error(`${document} does not match the schemas; run node scripts/generate-options-doc.js`)
      process.exitCode = 1
    }
  }
}
