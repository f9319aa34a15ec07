import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { instructionTask } from '../../src/cli/instructionTask.ts'
import { chatMLTemplate, chatMLTokens, pretrain, sft, trainTokenizer } from '../../src/index.ts'
import { jsonl } from '../../examples/shared.ts'

const root = join(import.meta.dirname, '../..')
const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href

/** A folder as the quickstart leaves it, but with a tiny model, and some Markdown: what examples run in. */
export async function exampleFolder(): Promise<{ folder: string, remove: () => void }> {
  const folder = mkdtempSync(join(tmpdir(), 'anneal-examples-'))
  const path = (name: string): string => join(folder, 'anneal-quickstart', name)
  const { train, heldOut } = instructionTask(120, 12)
  const files = jsonl(path('instructions.jsonl'), train)
  jsonl(path('held-out.jsonl'), heldOut)
  await trainTokenizer({
    type: 'bpe', files: [files], vocabSize: 400, specialTokens: [...chatMLTokens], chatTemplate: chatMLTemplate, roles: { eosToken: '<|im_end|>', padToken: '<|endoftext|>' }, outputDir: path('tokenizer'),
  })
  const common = { files, cacheDir: false, saveStrategy: 'no', reportTo: [] as [], learningRate: 3e-3, maxLength: 64 } as const
  for (const run of [
    await pretrain({
      ...common, tokenizer: path('tokenizer'), outputDir: path('pretrained'), maxSteps: 10,
      modelConfig: { modelType: 'llama', hiddenSize: 32, intermediateSize: 96, numHiddenLayers: 2, numAttentionHeads: 2, tieWordEmbeddings: true, maxPositionEmbeddings: 512 },
    }),
  ]) {
    await run.train()
    run.dispose()
    run.model.dispose()
  }
  const tuned = await sft({ ...common, model: path('pretrained'), outputDir: path('tuned'), assistantOnlyLoss: true, numTrainEpochs: 8 })
  await tuned.train()
  tuned.dispose()
  tuned.model.dispose()
  cpSync(join(root, 'docs'), join(folder, 'docs'), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'), 'junction')
  return { folder, remove: () => { rmSync(folder, { recursive: true, force: true }) } }
}

/** Starts an example at its reduced size. */
export const startExample = (folder: string, name: string, ...args: string[]) =>
  spawn(process.execPath, ['--import', tsx, join(root, `examples/${name}.ts`), ...args], { cwd: folder, env: { ...process.env, ANNEAL_EXAMPLE_SIZE: 'small' }, stdio: ['ignore', 'pipe', 'pipe'] })

/** Runs an example to its end and gives what it printed; throws with its errors where it fails. */
export async function runExample(folder: string, name: string, ...args: string[]): Promise<string> {
  const child = startExample(folder, name, ...args)
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk: Buffer) => { stdout += chunk.toString() })
  child.stderr.on('data', (chunk: Buffer) => { stderr += chunk.toString() })
  const code = await new Promise((resolve) => { child.once('close', resolve) })
  if (code !== 0) throw new Error(`examples/${name}.ts ended with ${String(code)}:\n${stdout}\n${stderr}`)
  return stdout
}
