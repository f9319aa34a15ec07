// Installs anneal as a user would, from tarballs and without network, and uses it: JavaScript, strict TypeScript, the command line, a little training.
// Also checks the packages with publint and Are the types wrong, and their sizes. Run `npm run build` first.
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { startRegistry } from './localRegistry.js'
import { pack, platforms } from './pack.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const bin = (name) => join(root, 'node_modules/.bin', name)
const project = mkdtempSync(join(tmpdir(), 'anneal-user-'))

/** What a command prints; throws with all of it where the command fails or takes longer than `seconds`. */
function run(command, args, { cwd = project, env = {}, seconds = 300 } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env: { ...process.env, ANNEAL_ADDON: '', ...env }, timeout: seconds * 1000 })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece) => { output += piece })
    child.on('error', reject)
    child.on('close', (code, signal) => { if (code === 0) resolve(output); else reject(new Error(`${command} ${args.join(' ')} ended with ${code ?? signal}:\n${output}`)) })
  })
}
function expect(condition, what) { if (!condition) throw new Error(what) }
async function step(name, work) {
  const start = performance.now()
  const note = await work()
  console.log(`ok  ${name}${note ? `: ${note}` : ''} (${((performance.now() - start) / 1000).toFixed(1)} s)`)
}
const write = (name, text) => { writeFileSync(join(project, name), text) }
const bytesOf = (folder, test) => readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile() && test(entry.name)).reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0)
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`

const program = (annotated) => `
import { writeFileSync } from 'node:fs'
import { AnnealError, AutoModelForCausalLM, ConfigError, cpu, generate, pretrain, sft, Tensor, trainTokenizer } from 'anneal'
${annotated ? "import type { SftOptions, TrainResult } from 'anneal'\n" : ''}
const sentences = Array.from({ length: 200 }, (_, i) => \`The number \${i} comes after \${i - 1}.\`)

writeFileSync('text.txt', sentences.join('\\n'))
await trainTokenizer({ type: 'bpe', files: ['text.txt'], vocabSize: 300, specialTokens: ['<|end|>'], roles: { eosToken: '<|end|>' }, outputDir: 'tokenizer' })
const run = await pretrain({
  tokenizer: 'tokenizer', files: 'text.txt', outputDir: 'model', maxSteps: 12, maxLength: 32, perDeviceTrainBatchSize: 4, learningRate: 1e-2, reportTo: [],
  modelConfig: { modelType: 'llama', hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 1, numAttentionHeads: 2 },
})
const losses${annotated ? ': number[]' : ''} = []
run.trainer.on((event) => { if (event.type === 'log') losses.push(event.metrics['loss'] ?? NaN) })
const result${annotated ? ': TrainResult' : ''} = await run.train()
run.dispose()
if (result.step !== 12 || losses.some((loss) => !Number.isFinite(loss))) throw new Error('training failed')
const wrong = await sft({ model: 'model', files: 'text.txt', outputDir: 'x', learningRte: 1 }${annotated ? ' as unknown as SftOptions' : ''}).catch((error${annotated ? ': unknown' : ''}) => error)
if (!(wrong instanceof ConfigError) || !(wrong instanceof AnnealError)) throw new Error('expected a ConfigError')
const model = await AutoModelForCausalLM.fromPretrained('model')
using x = Tensor.from([1, 2, 3], [3])
console.log(\`trained \${result.step} steps on \${cpu.isa}, \${model.numParameters()} parameters, \${x.shape.join()}, \${typeof generate}\`)
`
const compilerOptions = { target: 'es2022', lib: ['ES2023', 'ESNext.Disposable'], strict: true, noUncheckedIndexedAccess: true, exactOptionalPropertyTypes: true, noPropertyAccessFromIndexSignature: true, types: ['node'], outDir: 'out', rootDir: '.' }

const packages = pack()
const absent = Object.fromEntries(Object.entries(platforms).filter(([name]) => !packages[name]).map(([name, fields]) => [name, { name, version: packages.anneal.version, ...fields }]))
const registry = await startRegistry(root, packages, absent)
try {
  const host = Object.keys(packages).find((name) => name !== 'anneal' && !name.endsWith('-cuda'))
  await step('sizes', () => {
    const javascript = bytesOf(join(packages.anneal.folder, 'dist'), (name) => /\.c?js$/.test(name))
    const addon = host ? bytesOf(packages[host].folder, (name) => name.endsWith('.node')) : 0
    expect(packages.anneal.size < 1.1e6, `the package of anneal has ${packages.anneal.size} bytes; expected less than 1.1 MB`)
    expect(!host || packages[host].size < 4e6, `the package of the addon has ${host && packages[host].size} bytes; expected less than 4 MB`)
    return `anneal ${megabytes(packages.anneal.size)} packed, its JavaScript ${megabytes(javascript)}; addon ${megabytes(addon)}, ${host ? megabytes(packages[host].size) : 'not'} packed`
  })
  for (const [name, { folder, tarball }] of Object.entries(packages)) {
    await step(`publint ${name}`, async () => { await run(bin('publint'), ['run', '--strict', '--pack', 'false', folder]) })
    if (name === 'anneal') await step(`Are the types wrong ${name}`, async () => { await run(bin('attw'), [tarball, '--profile', 'esm-only', '--no-emoji']) })
  }
  await step('npm install without network', async () => {
    write('package.json', JSON.stringify({ name: 'user', version: '1.0.0', type: 'module', private: true, allowScripts: { anneal: true } }))
    write('.npmrc', `registry=${registry.url}\ncache=${join(project, '.npm')}\naudit=false\nfund=false\nupdate-notifier=false\n`)
    await run('npm', ['install', 'anneal', '@types/node@20'], { env: { npm_config_registry: registry.url } })
    expect(!existsSync(join(project, 'node_modules/anneal/build')), 'the addon was built, though this platform has a package')
    for (const name of Object.keys(platforms)) {
      const [{ os, cpu }, there] = [platforms[name], existsSync(join(project, 'node_modules', name, 'package.json'))]
      if (!os.includes(process.platform) || !cpu.includes(process.arch)) expect(!there && !registry.requested.includes(name), `${name} was fetched on ${process.platform}-${process.arch}`)
      else if (packages[name]) expect(there, `${name} was not installed`)
    }
    return `${registry.requested.length} packages`
  })
  await step('JavaScript', async () => {
    write('use.mjs', program(false).replace(/^using /m, 'const '))
    return (await run('node', ['use.mjs'])).trim().split('\n').at(-1)
  })
  write('use.ts', program(true))
  for (const [module, moduleResolution] of [['nodenext', 'nodenext'], ['node16', 'node16'], ['esnext', 'bundler']]) {
    await step(`strict TypeScript, moduleResolution ${moduleResolution}`, async () => {
      write('tsconfig.json', JSON.stringify({ compilerOptions: { ...compilerOptions, module, moduleResolution }, files: ['use.ts'] }))
      await run(bin('tsc'), ['-p', '.'])
    })
  }
  await step('compiled TypeScript', async () => {
    mkdirSync(join(project, 'ts'))
    return (await run('node', ['../out/use.js'], { cwd: join(project, 'ts') })).trim().split('\n').at(-1)
  })
  await step('npx anneal info', async () => {
    const output = await run('npx', ['--offline', 'anneal', 'info', '--json'])
    expect(JSON.parse(output).node === process.version, output)
  })
  await step('npx anneal generate', async () => { await run('npx', ['--offline', 'anneal', 'generate', '--model', 'model', '--prompt', 'The number', '--max-new-tokens', '4']) })
  await step('without its binary it says what to install', async () => {
    if (host) rmSync(join(project, 'node_modules', host), { recursive: true })
    const message = await run('node', ['-e', "import('anneal').catch((error) => console.log(error.code, error.message))"])
    expect(!host || (message.startsWith('ERR_ADDON') && message.includes(`npm install ${host}`)), message)
  })
} finally {
  registry.close()
  rmSync(project, { recursive: true, force: true })
}
