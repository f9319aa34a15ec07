import { existsSync } from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import { createHash } from 'node:crypto'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import glob from 'fast-glob'
import { during } from '../../activity.ts'
import { DataError } from '../../errors.ts'
import { makeFolder, writeText } from '../../files/index.ts'
import { generate } from '../../generate/index.ts'
import { pretrain, sft } from '../../methods/index.ts'
import type { PreparedRun } from '../../methods/index.ts'
import { AutoModelForCausalLM } from '../../models/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import { chatMLTemplate, chatMLTokens, Tokenizer, trainTokenizer } from '../../tokenizers/index.ts'
import { ProgressLogger } from '../../train/loggers/index.ts'
import { instructionTask } from '../instructionTask.ts'
import type { InstructionRow } from '../instructionTask.ts'
import { interruptCode, interruptSignal } from '../interrupt.ts'
import { bold, bytesText, dim, green, print } from '../terminal.ts'

/** Enough for a tokenizer and a first model, and no more than a small machine reads in seconds. */
const mostText = 4e6
const longestFile = 200_000

/** Markdown and text that machines with Node have: installed packages, npm's own documentation, and documentation of the system. */
function textFolders(): string[] {
  const folders: string[] = []
  for (const start of [process.cwd(), dirname(fileURLToPath(import.meta.url))]) {
    for (let folder = start; ; folder = dirname(folder)) {
      folders.push(join(folder, 'node_modules'))
      if (dirname(folder) === folder) break
    }
  }
  folders.push(resolve(dirname(process.execPath), '../lib/node_modules'), '/usr/share/doc')
  return [...new Set(folders)].filter((folder) => existsSync(folder))
}

/** Copies distinct documents of this machine into one JSONL file. */
async function collectText(target: string): Promise<{ documents: number; bytes: number }> {
  const seen = new Set<string>()
  const rows: string[] = []
  let bytes = 0
  for (const folder of textFolders()) {
    const files = (await glob('**/*.md', { cwd: folder, absolute: true, followSymbolicLinks: false, suppressErrors: true })).sort()
    for (const file of files) {
      if (bytes >= mostText) break
      const text = await readFile(file, 'utf8').catch(() => '')
      const digest = createHash('sha256').update(text).digest('base64')
      if (text.length < 500 || text.length > longestFile || seen.has(digest)) continue
      seen.add(digest)
      rows.push(JSON.stringify({ text }))
      bytes += text.length
    }
  }
  if (bytes < 100_000) throw new DataError('quickstart: found less than 100 kB of Markdown on this machine; run it in a folder with node_modules, or use anneal pretrain with your own files')
  await writeText(target, `${rows.join('\n')}\n`)
  return { documents: rows.length, bytes }
}

async function accuracy(model: CausalLanguageModel, tokenizer: Tokenizer, rows: readonly InstructionRow[]): Promise<number> {
  const outputs = await generate(model, tokenizer, rows.map(({ messages }) => messages.slice(0, 1)), { maxNewTokens: 24 })
  return outputs.filter(({ text }, i) => text.trim() === rows[i]!.messages[1].content).length / rows.length
}

async function runStage(run: PreparedRun, signal: AbortSignal): Promise<{ before: number; after: number }> {
  const progress = new ProgressLogger()
  const before = (await run.trainer.evaluate())['loss']!
  const stop = run.trainer.on((event) => { progress.handle(event) })
  try {
    const result = await run.train({ signal })
    progress.close()
    signal.throwIfAborted()
    return { before, after: result.evaluation!['loss']! }
  } finally {
    stop()
    run.dispose()
  }
}

export function quickstartCommand(): Command {
  return new Command('quickstart')
    .description('train a small model from nothing on this machine in minutes: tokenizer, pretraining, fine-tuning')
    .option('--output-dir <folder>', 'where everything goes', 'anneal-quickstart')
    .option('--steps <number>', 'pretraining steps', '120')
    .action(async ({ outputDir, steps }: { outputDir: string; steps: string }) => {
      const begin = performance.now()
      const stage = (title: string): void => { print(`\n${bold(title)} ${dim(`(${((performance.now() - begin) / 1000).toFixed(0)} s)`)}`) }
      const path = (name: string): string => join(outputDir, name)
      // A quickstart's own earlier output is replaced; nothing else is touched.
      for (const name of ['tokenizer', 'pretrained', 'tuned']) await rm(path(name), { recursive: true, force: true })
      await makeFolder(outputDir)
      const stages = async (): Promise<void> => {
        stage('1. Text found on this machine')
        const { documents, bytes } = await collectText(path('text.jsonl'))
        print(`${documents} Markdown documents, ${bytesText(bytes)}`)

        stage('2. A tokenizer of its own')
        const texts = (await readFile(path('text.jsonl'), 'utf8')).trim().split('\n').map((line) => (JSON.parse(line) as { text: string }).text)
        await writeText(path('text.txt'), texts.join('\n\n'))
        const tokenizer = await trainTokenizer({
          type: 'bpe', files: [path('text.txt')], vocabSize: 4096, specialTokens: [...chatMLTokens], chatTemplate: chatMLTemplate,
          roles: { eosToken: '<|im_end|>', padToken: '<|endoftext|>' }, outputDir: path('tokenizer'),
        })
        await rm(path('text.txt'))
        print(`byte-level BPE, ${tokenizer.vocabSize} tokens`)

        stage('3. Pretraining a small Llama')
        const shared = {
          cacheDir: path('cache'), saveStrategy: 'no', evalStrategy: 'steps', evalSteps: 1_000_000, warmupRatio: 0.1, lrSchedulerType: 'cosine', adamBeta2: 0.95, loggingSteps: 10,
        } as const
        const pretraining = await pretrain({
          ...shared, tokenizer: path('tokenizer'), files: path('text.jsonl'), outputDir: path('pretrained'), evalSplit: 0.02, maxLength: 256,
          perDeviceTrainBatchSize: 8, maxSteps: Number(steps), learningRate: 2e-3, weightDecay: 0.1,
          modelConfig: { modelType: 'llama', hiddenSize: 256, intermediateSize: 688, numHiddenLayers: 4, numAttentionHeads: 4, numKeyValueHeads: 2, tieWordEmbeddings: true },
        })
        print(`${(pretraining.model.numParameters() / 1e6).toFixed(1)}M parameters, ${pretraining.data.stats.tokens} tokens`)
        const base = await runStage(pretraining, interruptSignal)
        const [written] = await generate(pretraining.model, tokenizer, ['## Installation\n\n'], { maxNewTokens: 60, doSample: true, temperature: 0.7, seed: 1 })
        print(dim(`## Installation\n${written!.text}`))
        pretraining.model.dispose()

        stage('4. Fine-tuning on instructions')
        const { train, heldOut } = instructionTask(9600, 100)
        const jsonl = (rows: readonly InstructionRow[]): string => rows.map((row) => JSON.stringify(row)).join('\n')
        await writeText(path('instructions.jsonl'), jsonl(train))
        await writeText(path('held-out.jsonl'), jsonl(heldOut))
        const untuned = await AutoModelForCausalLM.fromPretrained(path('pretrained'))
        const accuracyBefore = await accuracy(untuned, tokenizer, heldOut)
        untuned.dispose()
        const tuning = await sft({
          ...shared, model: path('pretrained'), files: path('instructions.jsonl'), evalFiles: path('held-out.jsonl'), outputDir: path('tuned'), assistantOnlyLoss: true,
          maxLength: 128, perDeviceTrainBatchSize: 8, numTrainEpochs: 1, learningRate: 5e-4,
        })
        const tuned = await runStage(tuning, interruptSignal)
        const accuracyAfter = await accuracy(tuning.model, tokenizer, heldOut)

        stage('5. What came of it')
        print(`pretraining   held-out loss ${base.before.toFixed(2)} → ${green(base.after.toFixed(2))}`)
        print(`fine-tuning   held-out loss ${tuned.before.toFixed(2)} → ${green(tuned.after.toFixed(2))}, right answers ${(100 * accuracyBefore).toFixed(0)} % → ${green(`${(100 * accuracyAfter).toFixed(0)} %`)}`)
        for (const { messages } of heldOut.slice(0, 4)) {
          const [answer] = await generate(tuning.model, tokenizer, [messages.slice(0, 1)], { maxNewTokens: 24 })
          print(`\n${bold('user')}       ${messages[0].content}\n${bold('assistant')}  ${answer!.text}`)
        }
        tuning.model.dispose()
        print(`\n${dim(`everything is in ${resolve(outputDir)}: open tuned/report.html, or talk to the model:`)}\nnode ${relative(process.cwd(), process.argv[1]!)} chat --model ${path('tuned')}`)
        print(dim(`${((performance.now() - begin) / 1000).toFixed(0)} s in all`))
      }
      try {
        await during({ what: 'running the quickstart', kept: () => `${outputDir} keeps what was made so far` }, stages)
      } catch (error) {
        if (!interruptSignal.aborted) throw error
        print(`stopped; ${outputDir} keeps what was made so far`)
        process.exitCode = interruptCode()
      }
    })
}
