import { createSampler, permutation } from '../../../data/index.ts'
import type { CausalLanguageModel } from '../../../models/index.ts'
import type { PolicyWithValue } from '../../../models/valueHead.ts'
import { mul, SequenceStarts, slice, sum } from '../../../ops/index.ts'
import type { RewardRunner } from '../../../rewards/index.ts'
import { bytesOf, Tensor } from '../../../tensor/index.ts'
import type { Tokenizer } from '../../../tokenizers/index.ts'
import type { LossResult, TaskStep, TrainingTask } from '../../../train/task.ts'
import { modelKeeping } from '../../model.ts'
import { sampleAnswers } from '../rollouts/answers.ts'
import type { EnvironmentFactory } from '../environment/environment.ts'
import { dealt, isTrainedPlace, joined, layout, trainedPlaces, trainedTokens, type PpoBatch, type PpoRow } from './batch.ts'
import { collectPpo, type Collected } from './collect.ts'
import { adaptiveKl, fixedKl } from './kl.ts'
import { ppoLoss } from './loss.ts'
import type { PpoSettings } from './options.ts'
import { readPpoState, writePpoState } from './state.ts'
import type { PromptRow } from '../rollouts/prompts.ts'

export interface PpoTaskOptions {
  policy: PolicyWithValue
  /** null where klCoef is 0. */
  reference: CausalLanguageModel | null
  tokenizer: Tokenizer
  prompts: readonly PromptRow[]
  /** Names the prompts; a run resumes only with the same. */
  fingerprint: string
  /** null where an environment gives all rewards. */
  rewards: RewardRunner | null
  environment?: EnvironmentFactory<never> | undefined
  chatTemplateKwargs?: Record<string, unknown> | undefined
  settings: PpoSettings
  perDeviceTrainBatchSize: number
  gradientAccumulationSteps: number
  seed: number
  bf16: boolean
}

export interface PpoTask extends TrainingTask<PpoBatch> {
  /** Writes policy, tokenizer and value model, without what only a resumed run needs. */
  saveFinal(folder: string): Promise<void>
}

/** Each pass over a rollout shuffles with a stream of its own. */
const orderOf = (length: number, seed: number, rollout: number, pass: number, passes: number): Uint32Array => permutation(length, seed, 'buffer', rollout * passes + pass)

/**
 * PPO as a TrainingTask: numPpoEpochs × numMiniBatches optimizer steps to each batch of answers, which is sampled when its first step is due. A checkpoint
 * holds the answers too, so that a run goes on in the middle of them.
 */
export function ppoTask(options: PpoTaskOptions): PpoTask {
  const { policy, reference, tokenizer, prompts, rewards, environment, settings, perDeviceTrainBatchSize, gradientAccumulationSteps, seed, bf16 } = options
  const { numPpoEpochs, numMiniBatches, responseLength, klCoef, klTarget, klHorizon, temperature, topK, topP, maxTurns, environmentTimeout } = settings
  const perRollout = numPpoEpochs * numMiniBatches
  const sampler = createSampler(prompts.length, { perDeviceTrainBatchSize: Math.min(perDeviceTrainBatchSize * gradientAccumulationSteps * numMiniBatches, prompts.length), seed })
  const controller = settings.klController === 'adaptive' ? adaptiveKl(klCoef, { target: klTarget, horizon: klHorizon }) : fixedKl(klCoef)
  const keeping = modelKeeping(policy.policy, tokenizer)
  let current: { rollout: number; rows: PpoRow[]; metrics: Record<string, number> } | undefined

  async function collect(rollout: number): Promise<Collected> {
    await sampler.prepare(rollout)
    const chosen = Array.from(sampler.at(rollout).microBatches[0]!, (index) => prompts[index]!)
    const answers = await sampleAnswers(policy.policy, tokenizer, chosen, {
      maxCompletionLength: responseLength, temperature, topK, topP, seed, step: rollout, bf16, environment, chatTemplateKwargs: options.chatTemplateKwargs, maxTurns, environmentTimeout, lengthOption: 'responseLength',
    })
    const collected = await collectPpo(answers, chosen, rollout, { policy, reference, rewards, settings, klCoefficient: controller.coefficient, bf16, batchSize: perDeviceTrainBatchSize })
    controller.update(collected.kl, answers.length)
    return collected
  }

  async function saveFinal(folder: string): Promise<void> {
    await keeping.save(folder)
    await policy.saveValue(folder)
  }

  return {
    name: 'ppo', model: policy, fingerprint: options.fingerprint, stepsPerEpoch: sampler.stepsPerEpoch * perRollout,
    description: keeping.description, saveBytes: policy.parameters().reduce((bytes, { size, dtype }) => bytes + size * bytesOf(dtype), 0),
    async batches(step): Promise<TaskStep<PpoBatch>> {
      const rollout = Math.floor(step / perRollout)
      let fresh: Collected | undefined
      if (current?.rollout !== rollout) {
        fresh = await collect(rollout)
        current = { rollout, rows: fresh.rows, metrics: fresh.metrics }
      }
      const { rows, metrics } = current
      const [pass, part] = [Math.floor(step % perRollout / numMiniBatches), step % numMiniBatches]
      const order = Array.from(orderOf(rows.length, seed, rollout, pass, numPpoEpochs), (i) => rows[i]!)
      const parts = dealt(order, numMiniBatches)
      // With fewer judged answers than mini-batches some would be empty; they repeat the first.
      const mine = parts[part] ?? parts[0]!
      const [tokens, places] = [trainedTokens(mine), trainedPlaces(mine)]
      return {
        microBatches: dealt(mine, gradientAccumulationSteps).map((some) => ({ rows: some, tokens, places })), numItems: tokens,
        tokens: mine.reduce((total, { ids }) => total + ids.length, 0), metrics, ...(fresh ? { samples: fresh.samples, warnings: fresh.warnings } : {}),
      }
    },
    loss: (batch) => lossOf(policy, batch, settings),
    saveFinal,
    async save(folder) {
      await saveFinal(folder)
      if (current) await writePpoState(folder, { ...current, klCoefficient: controller.coefficient })
    },
    async load(folder) {
      await keeping.load(folder)
      await policy.loadValue(folder)
      const { klCoefficient, ...state } = await readPpoState(folder)
      controller.restore(klCoefficient)
      current = state
    },
  }
}

/** The loss of a micro-batch, a part of the means over the whole optimizer step. */
function lossOf(policy: PolicyWithValue, { rows, tokens, places }: PpoBatch, { temperature, cliprange, cliprangeValue, vfCoef, dualClip }: PpoSettings): LossResult {
  const { device } = policy.policy
  const tensor = (parts: readonly ArrayLike<number>[]): Tensor => Tensor.from(joined(parts), undefined, { device })
  const weights = tensor(rows.map(({ mask }) => Array.from(mask, (one) => one / tokens)))
  const { logprob, entropy, values } = policy.forward({ ...layout(rows.map((row) => ({ ...row, places: row.values.length }))), temperature })
  const result = ppoLoss(logprob, values, {
    sequences: SequenceStarts.ofLengths(rows.map(({ mask }) => mask.length), device), oldLogprobs: tensor(rows.map((row) => row.logprobs)), advantages: tensor(rows.map(({ advantages }) => advantages)),
    weights, cliprange, dualClip, vfCoef,
    value: {
      old: tensor(rows.map((row) => row.values)), returns: tensor(rows.map(({ returns }) => returns)), clipRange: cliprangeValue,
      weights: tensor(rows.map((row) => Array.from(row.values, (_, t) => (isTrainedPlace(row, t) ? 1 / places : 0)))),
    },
  })
  const own = trainedTokens(rows)
  const ownPlaces = trainedPlaces(rows)
  const total = (of: Tensor, factor: number, count: number): { sum: Tensor; count: number } => ({ sum: mul(of.detach(), factor), count })
  const statistic = (i: number): Tensor => sum(slice(result.policy.statistics, [i], [1]))
  return {
    loss: result.loss,
    sums: {
      policyLoss: total(result.policy.loss, tokens, own), valueLoss: total(result.valueLoss, places, ownPlaces), valueClipRatio: total(result.clipFraction, places, ownPlaces),
      clipRatioLow: { sum: statistic(1), count: own }, clipRatioHigh: { sum: statistic(2), count: own }, ratio: { sum: statistic(3), count: own }, approxKl: { sum: statistic(6), count: own },
      entropy: total(sum(mul(entropy.detach(), weights)), tokens, own),
    },
  }
}
