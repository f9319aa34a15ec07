// Proves that a kernel that fails and memory that runs out, wherever it is in a run of any method, reject that run and nothing else: Node hears of no unhandled
// rejection, what the run held is given back, and the device goes on.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { OutOfMemoryError } from '../../src/errors.ts'
import { generate } from '../../src/generate/index.ts'
import { distill, dpo, grpo, kto, onlineDpo, orpo, ppo, pretrain, reward, rloo, sft, teach } from '../../src/methods/index.ts'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { rewardEach } from '../../src/rewards/index.ts'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import { Tokenizer, trainTokenizer } from '../../src/tokenizers/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { makeModel, pairs, sentences, writeRows } from './support.ts'
import { preferences, unpaired } from './preference/support.ts'

const bert = { modelType: 'bert', hiddenSize: 48, intermediateSize: 96, numHiddenLayers: 2, numAttentionHeads: 3 }
const folder = mkdtempSync(join(tmpdir(), 'anneal-faults-'))
const [model, files, preferred, labelled, text] = ['model', 'pairs.jsonl', 'preferred.jsonl', 'labelled.jsonl', 'text.txt'].map((name) => join(folder, name)) as [string, string, string, string, string]
beforeAll(async () => {
  await makeModel(model)
  writeRows(files, pairs)
  writeRows(preferred, preferences)
  writeRows(labelled, unpaired)
  writeFileSync(text, sentences.join('\n'))
})
afterAll(() => { rmSync(folder, { recursive: true, force: true }) })

const wordpiece = join(folder, 'wordpiece')
beforeAll(() => trainTokenizer({ type: 'wordpiece', files: [text], vocabSize: 150, outputDir: wordpiece }))
const unhandled: unknown[] = []
const note = (reason: unknown): void => { unhandled.push(reason) }
beforeAll(() => { process.on('unhandledRejection', note) })
afterAll(() => { process.off('unhandledRejection', note) })

interface Held { dispose(): void }
interface Run extends Held { readonly model: Held, train(): Promise<unknown> }

async function trained(preparing: Promise<Run>): Promise<void> {
  const run = await preparing
  try {
    await run.train()
  } finally {
    run.dispose()
    run.model.dispose()
  }
}

const rows = ['the cat', 'a dog', 'my friend', 'one bird'].map((prompt) => ({ prompt }))
const letters = rewardEach<{ prompt: string }>('letters', ({ completion }) => completion.length)
const base = () => ({ model, outputDir: temporaryFolder(), reportTo: [], saveStrategy: 'no', maxSteps: 2, loggingSteps: 1, device: 'cpu' } as const)
const sampled = () => ({ ...base(), rows, rewards: [letters], numGenerations: 2, perDeviceTrainBatchSize: 4, maxCompletionLength: 6 } as const)

const methods: Record<string, () => Promise<void>> = {
  sft: () => trained(sft({ ...base(), files, cacheDir: false, evalSplit: 4, evalStrategy: 'steps', evalSteps: 1, perDeviceTrainBatchSize: 4 })),
  dpo: () => trained(dpo({ ...base(), files: preferred, perDeviceTrainBatchSize: 4 })),
  orpo: () => trained(orpo({ ...base(), files: preferred, perDeviceTrainBatchSize: 4 })),
  kto: () => trained(kto({ ...base(), files: labelled, perDeviceTrainBatchSize: 4 })),
  reward: () => trained(reward({ ...base(), files: preferred, perDeviceTrainBatchSize: 4 })),
  grpo: () => trained(grpo({ ...sampled(), beta: 0.1 })),
  rloo: () => trained(rloo(sampled())),
  'grpo with adaptive entropy': () => trained(grpo({ ...sampled(), useAdaptiveEntropy: true, entropyTarget: 5 })),
  ppo: () => trained(ppo({ ...base(), rows, rewards: [letters], responseLength: 6, perDeviceTrainBatchSize: 4 })),
  onlineDpo: () => trained(onlineDpo({ ...base(), rows, rewards: [letters], perDeviceTrainBatchSize: 4, maxNewTokens: 6 })),
  distill: () => trained(distill({ ...base(), files, cacheDir: false, teacher: model, perDeviceTrainBatchSize: 4 })),
  'distill on-policy': () => trained(distill({ ...base(), files, cacheDir: false, teacher: model, lmbda: 1, perDeviceTrainBatchSize: 4, maxNewTokens: 6 } as never)),
  minillm: () => trained(distill({ ...base(), files, cacheDir: false, teacher: model, objective: 'minillm', lmbda: 1, perDeviceTrainBatchSize: 4, maxNewTokens: 6 } as never)),
  teach: async () => { await teach({ teacher: model, files, cacheDir: false, device: 'cpu', output: join(temporaryFolder(), 'recorded') }) },
  'pretrain mlm': () => trained(pretrain({ mlm: true, tokenizer: wordpiece, files: text, modelConfig: bert, sampleBy: 'line', maxLength: 32, ...base(), model: undefined, cacheDir: false } as never)),
  lora: () => trained(sft({ ...base(), files, cacheDir: false, perDeviceTrainBatchSize: 4, adapter: { type: 'lora', r: 4 }, quantize: 'nf4' } as never)),
  generate: async () => {
    const own = await AutoModelForCausalLM.fromPretrained(model, { device: 'cpu' })
    try { await generate(own, await Tokenizer.fromPretrained(model), ['the cat', 'a dog'], { maxNewTokens: 8, doSample: true }) } finally { own.dispose() }
  },
}

const plain = cpu.kernels
/** Runs `body` with `fault` before kernel call `at`, counted from 0; gives the number of calls and the error. */
async function running(body: () => Promise<void>, at: number, fault: () => void): Promise<{ calls: number, error: unknown }> {
  let calls = 0
  const counting = new Proxy(plain, {
    get: (target, name: keyof typeof plain) => (...args: unknown[]): unknown => {
      if (calls++ === at) fault()
      return (target[name] as (...args: unknown[]) => unknown)(...args)
    },
  })
  Object.assign(cpu, { kernels: counting })
  try {
    await body()
    return { calls, error: undefined }
  } catch (error) {
    return { calls, error }
  } finally {
    Object.assign(cpu, { kernels: plain })
  }
}

/** Of each run; a few thousand of all find what these do (ANNEAL_FAULTS). */
const points = Number(process.env.ANNEAL_FAULTS ?? 5)

const settled = (): Promise<void> => new Promise((resolve) => { setTimeout(resolve, 5) })

/** How a run ends that must fail, and what it leaves. */
async function outcome(run: () => Promise<unknown>): Promise<{ error: string, unhandled: unknown[], left: unknown, bytes: number }> {
  unhandled.length = 0
  const before = cpu.memory().live
  const error = await run()
  await settled()
  const left: unknown = await cpu.fence().then(() => undefined, (late: unknown) => late)
  // What was forgotten before may have been collected in the meantime.
  return { error: String(error), unhandled: [...unhandled], left, bytes: Math.max(0, cpu.memory().live - before) }
}

/** Places spread over a run. */
const spread = (calls: number): number[] => Array.from({ length: points }, (_, i) => Math.floor(i * calls / points))

describe.each(Object.keys(methods))('%s', (name) => {
  const body = methods[name]!
  const clean = (error: string) => ({ error: expect.stringContaining(error) as string, unhandled: [], left: undefined, bytes: 0 })

  test('a kernel fails, or is refused', async () => {
    const { calls, error } = await running(body, -1, () => undefined)
    expect(error).toBeUndefined()
    using table = Tensor.ones([4, 2])
    using outside = Tensor.from(Int32Array.of(4), [1])
    using row = Tensor.empty([1, 2])
    for (const at of spread(calls)) {
      const fails = () => { plain.embedding(row.handle, table.handle, outside.handle) }
      expect(await outcome(async () => (await running(body, at, fails)).error), `call ${at} fails`).toEqual(clean('embedding: id[0] is 4, outside the vocabulary of 4'))
      const refused = () => { throw new RangeError(`call ${at}`) }
      expect(await outcome(async () => (await running(body, at, refused)).error), `call ${at} is refused`).toEqual(clean(`call ${at}`))
    }
  })

  test('memory runs out', async () => {
    const { native } = cpu
    const create = native.create.bind(native)
    let [made, last] = [0, -1]
    native.create = (...args) => {
      if (made++ === last) throw new OutOfMemoryError('none is left')
      return create(...args)
    }
    try {
      await body()
      for (const at of spread(made)) {
        [made, last] = [0, at]
        expect(await outcome(() => body().then(() => undefined, (error: unknown) => error)), `tensor ${at}`).toEqual(clean('none is left'))
      }
    } finally {
      native.create = create
    }
  })
})
