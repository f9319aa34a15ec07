// Steps of GRPO, DPO and PPO with a tiny Llama (2 layers, 128 wide, 512 tokens) through the public functions, and the group advantages alone: what calls,
// scheduling and bookkeeping cost.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { dpo, grpo, ppo } from '../../src/methods/index.ts'
import { grpoAdvantages } from '../../src/methods/reinforcement/policy/advantages.ts'
import { policyBatch } from '../../src/methods/reinforcement/policy/batch.ts'
import { policyBatchLoss } from '../../src/methods/reinforcement/policy/objective.ts'
import { policyTask } from '../../src/methods/reinforcement/policy/task.ts'
import { generateRollouts } from '../../src/methods/reinforcement/rollouts/rollouts.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { Module, Parameter, zeros } from '../../src/nn/index.ts'
import { groupAdvantages, sum } from '../../src/ops/index.ts'
import { AdamW } from '../../src/optim/index.ts'
import { rewardEach, RewardRunner } from '../../src/rewards/index.ts'
import { backward, cpu, scope, Tensor } from '../../src/tensor/index.ts'
import { trainTokenizer } from '../../src/tokenizers/index.ts'
import { Trainer, type TrainingArguments, type TrainingTask } from '../../src/train/index.ts'
import { randomNumbers } from '../../tests/cases/random.ts'
import { trlPeers } from '../peers/trl.ts'
import type { Prepared, Step } from './step.ts'

const prompt = 'the quick brown fox'
const promptIds = Int32Array.of(5, 6, 7, 8)
const [answers, newTokens] = [8, 64]

/** A folder with an untrained model that no token ends an answer of, and a byte-level tokenizer of 512 tokens. It goes when the process ends. */
async function tinyModel(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'anneal-bench-'))
  process.once('exit', () => { rmSync(folder, { recursive: true, force: true }) })
  const random = randomNumbers('tiny words')
  const word = (): string => Array.from({ length: 2 + Math.floor(random() * 6) }, () => String.fromCharCode(97 + Math.floor(random() * 26))).join('')
  const corpus = join(folder, 'corpus.txt')
  writeFileSync(corpus, Array.from({ length: 400 }, () => `${prompt} jumps over the lazy dog ${word()} ${word()} ${word()}`).join('\n'))
  const tokenizer = await trainTokenizer({ type: 'bpe', files: [corpus], vocabSize: 512, specialTokens: ['<pad>', '<eos>'], roles: { eosToken: '<eos>', padToken: '<pad>' }, outputDir: folder })
  const model = AutoModelForCausalLM.fromConfig({
    modelType: 'llama', vocabSize: tokenizer.embeddingRows, hiddenSize: 128, intermediateSize: 512, numHiddenLayers: 2, numAttentionHeads: 4, numKeyValueHeads: 4, maxPositionEmbeddings: 512,
    padTokenId: 0, eosTokenId: 1, bosTokenId: 1,
  }, { seed: 1, device: cpu })
  model.generationConfig = { eos_token_id: [] }
  await model.savePretrained(folder)
  model.dispose()
  return folder
}

const loadTiny = async (): Promise<CausalLanguageModel> => AutoModelForCausalLM.fromPretrained(await tinyModel(), { device: cpu })

/** A trainer's whole steps, everything that it does between two of them included; `steps` of them at a time. */
function trainerSteps<B>({ task, args }: { task: TrainingTask<B>; args: TrainingArguments }, tokens: number, steps = 1): Prepared {
  const [arrived, released]: [(() => void)[], (() => void)[]] = [[], []]
  const trainer = new Trainer({
    ...task,
    async batches(step) {
      if (step % steps === 0) {
        arrived.shift()?.()
        await new Promise<void>((resolve) => { released.push(resolve) })
      }
      return task.batches(step)
    },
  }, args)
  const reach = (): Promise<void> => new Promise((resolve) => { arrived.push(resolve) })
  const ready = reach()
  const training = trainer.train()
  const failure = training.then(() => { throw new Error('the training ended') })
  failure.catch(() => undefined)
  return {
    tokens,
    async run() {
      await Promise.race([ready, failure])
      const next = reach()
      released.shift()?.()
      await Promise.race([next, failure])
    },
  }
}

/** What TRL's benchmark rewards. */
const distinctLetters = rewardEach('distinctLetters', ({ completion }) => new Set(completion).size / 10)
const rows = Array.from({ length: 256 }, () => ({ prompt }))
const training = (folder: string) => ({
  model: folder, outputDir: join(folder, 'out'), maxSteps: 1_000_000, lrSchedulerType: 'constant', loggingSteps: 1, reportTo: [] as never[], saveStrategy: 'no', device: 'cpu', perDeviceTrainBatchSize: answers,
} as const)

/** What is trained where the model's part of a step is left out. */
class OneNumber extends Module {
  readonly value = new Parameter([1], zeros)
}

const step = (name: string, prepare: () => Promise<Prepared> | Prepared): Step => ({ name, dtype: 'float32', prepare, peers: trlPeers(name) })

const sampled = (model: CausalLanguageModel, number: number) => generateRollouts(model, null, [promptIds], { seed: 1, step: number, numGenerations: answers, maxCompletionLength: newTokens, eosTokenId: null })

const objective = {
  lossType: 'dapo', epsilon: 0.2, importanceSamplingLevel: 'token', beta: 0, useBiasCorrectionKl: true, entropyCoef: 0, sapoTemperaturePos: 1, sapoTemperatureNeg: 1.05, vespoPos: [2, 3], vespoNeg: [3, 2],
} as const

export const reinforcementSteps: readonly Step[] = [
  step('grpo-tiny', async () => {
    const folder = await tinyModel()
    const run = await grpo({ ...training(folder), numGenerations: answers, maxCompletionLength: newTokens, rewards: [distinctLetters], rows })
    return trainerSteps(run.trainer, answers * newTokens)
  }),
  step('grpo-tiny-rollout', async () => {
    const model = await loadTiny()
    let number = 0
    return { tokens: answers * newTokens, run: async () => { await sampled(model, number++) } }
  }),
  step('grpo-tiny-update', async () => {
    const model = await loadTiny()
    const rollouts = await sampled(model, 0)
    const trained = rollouts.map((rollout, i) => ({ rollout, advantage: i - (answers - 1) / 2, counted: rollout.mask, old: null, reference: null, weights: null }))
    const optimizer = new AdamW(model.namedParameters())
    model.train()
    return {
      tokens: answers * newTokens,
      async run() {
        const batch = policyBatch(trained, { lossType: 'dapo', generationTokens: answers * newTokens, maxCompletionLength: newTokens, gradientAccumulationSteps: 1, stepsPerGeneration: 1 })
        scope(() => { backward(policyBatchLoss(model, batch, { ...objective, gradientAccumulationSteps: 1, temperature: 1 }).loss) })
        await optimizer.step({ learningRate: 1e-6, maxGradNorm: 1 })
      },
    }
  }),
  // All of a GRPO step but its rollout, which is there already, and the model's part of the update: rewards, advantages, batches, log, trainer loop.
  step('grpo-tiny-bookkeeping', async () => {
    const folder = await tinyModel()
    const run = await grpo({ ...training(folder), numGenerations: answers, maxCompletionLength: newTokens, rewards: [distinctLetters], rows })
    const { model, tokenizer, data } = run
    const rollouts = (await sampled(model, 0)).map((rollout) => ({ ...rollout, text: tokenizer.decode(rollout.completionIds) }))
    const task = policyTask({
      ...objective, name: 'grpo', fingerprint: '', perDeviceTrainBatchSize: answers, gradientAccumulationSteps: 1, stepsPerGeneration: 1, numIterations: 1, topEntropyQuantile: 1, offPolicyMaskThreshold: null,
      generation: {
        model, tokenizer, prompts: data.train, runner: new RewardRunner([distinctLetters]), rewardWeights: [1], promptsPerGeneration: 1, dynamicSamplingRounds: 0, maskTruncatedCompletions: false, batchSize: answers,
        sampling: { seed: 1, numGenerations: answers, maxCompletionLength: newTokens, temperature: 1 }, needsOld: false, klInReward: false, samplesToLog: 2,
        source(_, { onGroup }) {
          onGroup?.(rollouts)
          return Promise.resolve(rollouts)
        },
        advantages: (rewards) => grpoAdvantages(rewards, 'group'),
      },
    })
    const one = new OneNumber()
    one.initialise({ seed: 1, dtype: 'float32', device: cpu })
    const metrics = ['entropy', 'clipRatio/lowMean', 'clipRatio/highMean', 'ratio/mean', 'ratio/max', 'samplingLogprobDifference/max']
    return trainerSteps({
      task: { ...task, model: one, loss: ({ countedTokens }) => ({ loss: sum(one.value.tensor), sums: Object.fromEntries(metrics.map((name) => [name, { sum: sum(one.value.tensor.detach()), count: countedTokens }])) }) },
      args: run.trainer.args,
    }, answers * newTokens)
  }),
  step('dpo-tiny', async () => {
    const folder = await tinyModel()
    const files = join(folder, 'pairs.jsonl')
    const pairs = Array.from({ length: 64 }, (_, i) => ({ prompt, chosen: ' jumps over the lazy dog'.repeat(1 + i % 4), rejected: ' over jumps dog lazy the'.repeat(1 + (i + 1) % 4) }))
    writeFileSync(files, pairs.map((pair) => JSON.stringify(pair)).join('\n'))
    const run = await dpo({ ...training(folder), files })
    return trainerSteps(run.trainer, 2 * answers * 16)
  }),
  // A batch of answers and the four updates from it.
  step('ppo-tiny', async () => {
    const run = await ppo({ ...training(await tinyModel()), responseLength: newTokens, rewards: [distinctLetters], rows })
    return trainerSteps(run.trainer, answers * newTokens, 4)
  }),
  // Of 512 groups of 8 in one call, 256 times.
  step('group-advantages', () => {
    const random = randomNumbers('rewards')
    const rewards = Tensor.from(Float32Array.from({ length: 4096 }, random), [4096], { device: cpu })
    return {
      async run() {
        for (let i = 0; i < 256; i++) scope(() => { groupAdvantages(rewards, { groupSize: 8 }) })
        await cpu.fence()
      },
    }
  }),
]
