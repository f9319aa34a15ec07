import type { CausalLanguageModel } from '../../../models/index.ts'
import type { TaskStep, TrainingTask } from '../../../train/task.ts'
import type { LossResult } from '../../../train/task.ts'
import { modelKeeping } from '../../model.ts'
import { AdaptiveEntropy, type AdaptiveEntropyOptions } from './adaptiveEntropy.ts'
import { makeGeneration, type Generation, type GenerationOptions } from './generation.ts'
import { readGenerations, writeGenerations } from './generationState.ts'
import { policyBatch, sumOf, type BatchMasks, type PolicyBatch, type TrainedRollout } from './batch.ts'
import { tokenNumbersOf } from './logprobs.ts'
import { policyBatchLoss, type ObjectiveOptions } from './objective.ts'
import { keepFactors } from './weights.ts'

export interface PolicyTaskOptions<Row> extends ObjectiveOptions {
  name: 'grpo' | 'rloo'
  fingerprint: string
  generation: GenerationOptions<Row>
  perDeviceTrainBatchSize: number
  gradientAccumulationSteps: number
  /** Micro-batches that one generation is cut into. */
  stepsPerGeneration: number
  /** Times that each is trained on. */
  numIterations: number
  topEntropyQuantile: number
  offPolicyMaskThreshold: number | null
  adaptiveEntropy?: AdaptiveEntropyOptions | null
  measure?: (signal?: AbortSignal) => Promise<Record<string, number>>
}

/** How many prompts one generation takes. */
export const promptsPerGeneration = ({ perDeviceTrainBatchSize, stepsPerGeneration, numGenerations }: { perDeviceTrainBatchSize: number, stepsPerGeneration: number, numGenerations: number }): number =>
  perDeviceTrainBatchSize * stepsPerGeneration / numGenerations

/**
 * Sample, reward, update: GRPO and RLOO differ in their advantages and objective only. What a step trains on is a function of the seed, the step and
 * the weights at the generation; generations that a later step needs again go into checkpoints.
 */
export function policyTask<Row>(options: PolicyTaskOptions<Row>): TrainingTask<PolicyBatch> {
  const { name, fingerprint, generation, perDeviceTrainBatchSize, gradientAccumulationSteps, stepsPerGeneration, numIterations, measure } = options
  const { model, tokenizer, sampling } = generation
  const microBatchesPerGeneration = stepsPerGeneration * numIterations
  const chunks = Math.floor(generation.prompts.length / generation.promptsPerGeneration)
  const keeping = modelKeeping(model, tokenizer)
  const lossOptions = { ...options, temperature: sampling.temperature }
  const adaptive = options.adaptiveEntropy ? new AdaptiveEntropy(options.adaptiveEntropy) : undefined
  /** Those that the last step used. */
  let live: Generation[] = []
  let updateBegin: number | undefined
  let updateTokens = 0

  const generationAt = async (index: number, step: number): Promise<Generation> => live.find((one) => one.index === index) ?? await makeGeneration(generation, index, step)

  /** Of the steps since the last generation, whose end the next generation waits for anyway. */
  async function updateSpeed(): Promise<Record<string, number>> {
    if (updateBegin === undefined) return {}
    await model.device.fence()
    const updateTokensPerSecond = updateTokens / Math.max((performance.now() - updateBegin) / 1000, 1e-9)
    updateTokens = 0
    updateBegin = undefined
    return { updateTokensPerSecond }
  }

  async function batches(step: number): Promise<TaskStep<PolicyBatch>> {
    const first = step * gradientAccumulationSteps
    const last = Math.floor((first + gradientAccumulationSteps - 1) / microBatchesPerGeneration)
    const update = live.some(({ index }) => index === last) ? {} : await updateSpeed()
    await adaptive?.settle()
    const used: Generation[] = []
    const microBatches: PolicyBatch[] = []
    for (let micro = first; micro < first + gradientAccumulationSteps; micro++) {
      const index = Math.floor(micro / microBatchesPerGeneration)
      let current = used.find((one) => one.index === index)
      if (!current) {
        current = await generationAt(index, step)
        used.push(current)
      }
      const at = (micro % stepsPerGeneration) * perDeviceTrainBatchSize
      microBatches.push(await microBatch(current, current.rollouts.slice(at, at + perDeviceTrainBatchSize)))
    }
    live = used
    const fresh = used.filter(({ index }) => index * microBatchesPerGeneration >= first)
    const tokens = microBatches.reduce((sum, batch) => sum + batch.tokens, 0)
    updateTokens += tokens
    updateBegin ??= performance.now()
    return {
      microBatches, numItems: 1, tokens,
      metrics: { ...mean(fresh.map(({ metrics }) => metrics)), ...adaptive ? { entropyCoef: adaptive.coefficient } : {}, ...update },
      samples: used.flatMap(({ samples }) => samples), warnings: fresh.flatMap(({ warnings }) => warnings),
    }
  }

  async function microBatch(current: Generation, rollouts: readonly TrainedRollout[]): Promise<PolicyBatch> {
    const { lossType, topEntropyQuantile, offPolicyMaskThreshold } = options
    const generationTokens = current.rollouts.reduce((sum, { counted }) => sum + sumOf(counted), 0)
    const weights = { lossType, generationTokens, maxCompletionLength: sampling.maxCompletionLength, gradientAccumulationSteps, stepsPerGeneration }
    if (topEntropyQuantile >= 1 && offPolicyMaskThreshold === null) return policyBatch(rollouts, weights)
    // Masks depend on the policy as the update finds it, which is now.
    const numbers = await tokenNumbersOf(model, rollouts.map(({ rollout }) => rollout), { temperature: sampling.temperature, bf16: sampling.bf16 ?? false, batchSize: perDeviceTrainBatchSize })
    return policyBatch(rollouts, weights, masksOf(rollouts, numbers, { topEntropyQuantile, offPolicyMaskThreshold }))
  }

  return {
    name, model, fingerprint, ...keeping,
    stepsPerEpoch: Math.max(1, Math.floor(chunks * microBatchesPerGeneration / gradientAccumulationSteps)),
    batches,
    loss: (batch): LossResult => policyBatchLoss(model, batch, adaptive ? { ...lossOptions, entropyCoef: adaptive.applied, onEntropy: (sum, count) => { adaptive.observe(sum.item(), count) } } : lossOptions),
    ...(measure ? { measure } : {}),
    async save(folder) {
      await keeping.save(folder)
      await writeGenerations(folder, live)
      await adaptive?.save(folder)
    },
    async load(folder) {
      await keeping.load(folder)
      live = await readGenerations(folder)
      await adaptive?.load(folder)
    },
    trace: (batch) => traceForward(model, batch),
  }
}

/** keepFactors over the tokens that count, put back in their places: of both masks together, and of the entropy's alone. */
function masksOf(rollouts: readonly TrainedRollout[], numbers: Awaited<ReturnType<typeof tokenNumbersOf>>, options: Parameters<typeof keepFactors>[2]): BatchMasks {
  const places = rollouts.map(({ counted }) => Array.from(counted).flatMap((one, t) => one ? [t] : []))
  const at = (valuesOf: (row: number) => ArrayLike<number>): number[][] => places.map((row, i) => row.map((t) => valuesOf(i)[t]!))
  const keep = (threshold: number | null): Float32Array[] => {
    const kept = keepFactors(places.map((row) => row.length), {
      entropies: at((i) => numbers[i]!.entropies), logprobs: at((i) => numbers[i]!.logprobs), advantages: rollouts.map(({ advantage }) => advantage),
      // Weighed answers are another engine's, which recorded its own numbers.
      sampled: at((i) => rollouts[i]!.weights ? rollouts[i]!.rollout.logprobs : rollouts[i]!.old ?? numbers[i]!.logprobs),
    }, { ...options, offPolicyMaskThreshold: threshold })
    return rollouts.map(({ counted }, i) => {
      const result = new Float32Array(counted.length)
      places[i]!.forEach((t, k) => { result[t] = kept[i]![k]! })
      return result
    })
  }
  return { factors: keep(options.offPolicyMaskThreshold), bonus: keep(null) }
}

/** Of each metric over the generations that have it. */
function mean(all: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  return Object.fromEntries([...new Set(all.flatMap(Object.keys))].map((name) => {
    const values = all.flatMap((one) => one[name] ?? [])
    return [name, values.reduce((sum, value) => sum + value, 0) / values.length]
  }))
}

/** What a forward pass computes, in order, by name. */
function* traceForward(model: CausalLanguageModel, batch: PolicyBatch): ReturnType<NonNullable<TrainingTask<PolicyBatch>['trace']>> & Generator {
  const { hiddenStates = [] } = model.forward({ inputIds: batch.inputIds, outputHiddenStates: true, outputLogits: false })
  for (const [i, hidden] of hiddenStates.entries()) yield [i === 0 ? 'the token embeddings' : i === hiddenStates.length - 1 ? 'the output of the last layer and norm' : `the output of layer ${i - 1}`, hidden]
  const { logprob, entropy } = model.logprobs({ inputIds: batch.inputIds, shiftLabels: batch.shiftLabels })
  yield ['the log-probabilities', logprob]
  yield ['the entropies', entropy]
}
