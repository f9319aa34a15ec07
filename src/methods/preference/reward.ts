import { ConfigError } from '../../errors.ts'
import { ignoreIndex, preferenceKinds, type PairExample, type StepwiseExample } from '../../data/index.ts'
import { readBaseConfig, type Classifier, type PretrainedModel } from '../../models/index.ts'
import { crossEntropy, embedding, equal, greater, max, neg, reshape, slice, sub, sum, toDtype } from '../../ops/index.ts'
import { givenOptions, parseOptions } from '../../options.ts'
import { Tensor } from '../../tensor/index.ts'
import { classifierKeeping, loadClassifier } from './classifier.ts'
import { collatePairs, pairLength, pairTokens, type PairBatch } from './dpo.ts'
import { rewardLoss } from './losses/index.ts'
import { halves } from './metrics.ts'
import { rewardSchema, type RewardArguments, type RewardOptions } from './options.ts'
import { decisive, loadTokenizerAndData, preparePreferenceRun, taskArguments, type PreparedPreferenceRun, type WithRows } from './prepare.ts'
import { meanOf, preferenceTask, type Countable, type PreferenceLoss } from './task.ts'

/** A prepared run of a reward model. */
export type PreparedRewardRun = PreparedPreferenceRun<PairExample, PairBatch, PretrainedModel> & { classifier: Classifier }
/** A prepared training of a process reward model, which scores each step of an answer. */
export type PreparedStepwiseRun = PreparedPreferenceRun<StepwiseExample, StepwiseBatch, PretrainedModel> & { classifier: Classifier }

type Named = Exclude<keyof RewardArguments, 'learningRate'>
const decisiveNames: readonly Named[] = ['centerRewardsCoefficient', 'stepwise', 'stepSeparator', 'trainOnLastStepOnly']

/** Options with the learning rate that their kind of reward model has by default: TRL's. */
const withLearningRate = (args: RewardArguments): RewardArguments & { learningRate: number } => ({ ...args, learningRate: args.learningRate ?? (args.stepwise ? 1e-5 : 1e-4) })

/**
 * A reward model from pairs of a preferred and a rejected text (Bradley-Terry, arXiv 2203.02155), with the rows' margin where they have one. Options are
 * TRL's RewardConfig in camelCase. Pairs longer than maxLength are left out, not cut. The model is saved as transformers' ForSequenceClassification.
 */
export async function reward(input: WithRows<RewardOptions> & { stepwise?: false }): Promise<PreparedRewardRun> {
  const { rows, evalRows, ...options } = givenOptions('reward', input, "model: './model', files: 'data.jsonl', outputDir: './out'")
  const args = withLearningRate(parseOptions(rewardSchema, options, 'reward'))
  if (args.stepwise) throw new ConfigError('stepwise: a process reward model is trained by stepwiseReward()')
  const config = await readBaseConfig(args.model)
  const { tokenizer, data } = await loadTokenizerAndData(args, { rows, evalRows, make: preferenceKinds.wholePair, tokensOf: pairTokens, longest: pairLength, config })
  const classifier = await loadClassifier('sequence', args, tokenizer)
  try {
    const hasAdapter = args.adapter !== undefined || args.adapterPath !== undefined
    const task = preferenceTask({
      name: 'reward', model: classifier.model, tokenizer, train: data.train, eval: data.eval, fingerprint: data.fingerprint, ...taskArguments(args), collate: collatePairs,
      loss: rewardStep(classifier, args), decisiveOptions: decisive(args, decisiveNames),
    })
    const kept = { ...task, ...classifierKeeping(classifier, tokenizer, hasAdapter) }
    return { ...preparePreferenceRun(args, { model: classifier.model, tokenizer, data, task: kept }), classifier }
  } catch (error) {
    classifier.dispose()
    throw error
  }
}

function rewardStep(classifier: Classifier, { centerRewardsCoefficient }: RewardArguments): (batch: PairBatch) => PreferenceLoss {
  return ({ inputIds, cuSeqlens, pairs }) => {
    const scores = reshape(classifier.forward({ inputIds, cuSeqlens }), [2 * pairs.length])
    const [chosen, rejected] = halves(scores)
    const margin = pairs.some((pair) => pair.margin !== undefined)
      ? Tensor.from(pairs.map((pair) => pair.margin ?? 0), [pairs.length], { dtype: scores.dtype, device: scores.device }) : undefined
    const losses = rewardLoss(chosen, rejected, { margin, ...centerRewardsCoefficient === undefined ? {} : { centerRewardsCoefficient } })
    const seen = scores.detach()
    return {
      loss: sum(losses),
      sums: {
        accuracy: meanOf(greater(chosen, rejected)), margin: meanOf(sub(chosen, rejected)), mean_reward: meanOf(seen),
        min_reward: { sum: neg(max(neg(seen))), count: 1 }, max_reward: { sum: max(seen), count: 1 },
      },
    }
  }
}

/** Solutions one after another, with the places of their judged tokens. */
export interface StepwiseBatch extends Countable {
  inputIds: Int32Array
  cuSeqlens: Int32Array
  /** The last token of each judged step, and whether the step is right. */
  places: Int32Array
  labels: Int32Array
}

function collateStepwise(examples: readonly StepwiseExample[]): StepwiseBatch {
  const cuSeqlens = new Int32Array(examples.length + 1)
  examples.forEach(({ inputIds }, i) => { cuSeqlens[i + 1] = cuSeqlens[i]! + inputIds.length })
  const inputIds = new Int32Array(cuSeqlens.at(-1)!)
  const [places, labels]: [number[], number[]] = [[], []]
  examples.forEach((example, i) => {
    inputIds.set(example.inputIds, cuSeqlens[i])
    example.labels.forEach((label, t) => {
      if (label === ignoreIndex) return
      places.push(cuSeqlens[i]! + t)
      labels.push(label)
    })
  })
  return { inputIds, cuSeqlens, places: Int32Array.from(places), labels: Int32Array.from(labels), items: labels.length, labelled: labels.length, tokens: inputIds.length }
}

/**
 * A process reward model: a classifier of two labels judges the last token of each step (arXiv 2211.14275). Options are TRL's PRMConfig in camelCase; the
 * loss is a mean over the judged steps of the whole optimizer step. Saved as transformers' ForTokenClassification.
 */
export async function stepwiseReward(input: WithRows<RewardOptions>): Promise<PreparedStepwiseRun> {
  const { rows, evalRows, ...options } = givenOptions('stepwiseReward', input, "model: './model', files: 'data.jsonl', outputDir: './out'")
  const args = withLearningRate(parseOptions(rewardSchema, { ...options, stepwise: true }, 'reward'))
  if (args.centerRewardsCoefficient !== undefined) throw new ConfigError('centerRewardsCoefficient: has no meaning for a stepwise reward model, which has no pairs')
  const config = await readBaseConfig(args.model)
  const { stepSeparator, trainOnLastStepOnly: lastOnly } = args
  const length = ({ inputIds }: StepwiseExample): number => inputIds.length
  const { tokenizer, data } = await loadTokenizerAndData(args, { rows, evalRows, make: preferenceKinds.stepwise({ stepSeparator, lastOnly }), tokensOf: length, longest: length, config })
  const classifier = await loadClassifier('token', args, tokenizer)
  try {
    const hasAdapter = args.adapter !== undefined || args.adapterPath !== undefined
    const task = preferenceTask({
      name: 'stepwise reward', model: classifier.model, tokenizer, train: data.train, eval: data.eval, fingerprint: data.fingerprint, ...taskArguments(args), collate: collateStepwise,
      loss: (batch) => stepwiseLoss(classifier, batch), decisiveOptions: decisive(args, decisiveNames),
    })
    const kept = { ...task, ...classifierKeeping(classifier, tokenizer, hasAdapter) }
    return { ...preparePreferenceRun(args, { model: classifier.model, tokenizer, data, task: kept }), classifier }
  } catch (error) {
    classifier.dispose()
    throw error
  }
}

function stepwiseLoss(classifier: Classifier, { inputIds, cuSeqlens, places, labels }: StepwiseBatch): PreferenceLoss {
  const { device } = classifier
  const all = classifier.tokenLogits({ inputIds, cuSeqlens })
  const logits = embedding(all, Tensor.from(places, [places.length], { device }))
  const wanted = Tensor.from(labels, [labels.length], { device })
  const column = (i: number): Tensor => reshape(slice(logits.detach(), [0, i], [places.length, 1]), [places.length])
  const right = equal(greater(column(1), column(0)), toDtype(wanted, logits.dtype))
  return { loss: sum(crossEntropy(logits, wanted)), sums: { accuracy: meanOf(right) } }
}
