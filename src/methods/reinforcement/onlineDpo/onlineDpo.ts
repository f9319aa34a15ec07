import { ConfigError } from '../../../errors.ts'
import type { Rows } from '../../../data/index.ts'
import { disableDropout, readConfig, type CausalLanguageModel } from '../../../models/index.ts'
import { givenOptions, parseOptions } from '../../../options.ts'
import { Owned } from '../../../owned.ts'
import { RewardRunner, type AnyRow, type PairwiseJudge, type RewardFunction } from '../../../rewards/index.ts'
import { Tokenizer } from '../../../tokenizers/index.ts'
import { Trainer, type TrainOptions, type TrainResult } from '../../../train/index.ts'
import { decisiveModelOptions, loadModel, modelKeeping } from '../../model.ts'
import { trainingPart } from '../../options.ts'
import { checkVocabulary, sampleTexts } from '../../prepare.ts'
import { Reference } from '../../reference.ts'
import { trainAndSave } from '../../trainAndSave.ts'
import { measureRewards } from '../policy/measure.ts'
import { loadPrompts, type PromptData } from '../rollouts/prompts.ts'
import { loadJudge } from '../rewardSources.ts'
import { answerEnds, generateRollouts } from '../rollouts/rollouts.ts'
import { apiKeyOf, serverSource } from '../rollouts/server.ts'
import { rankingFunctions } from './judge.ts'
import { onlineDpoSchema, type OnlineDpoArguments, type OnlineDpoOptions } from './options.ts'
import { onlineDpoTask, type OnlineDpoBatch } from './task.ts'

/** What onlineDpo() takes: the options that a file can hold, and what only a program has. */
export interface OnlineDpoInput<Row extends object = AnyRow> extends Omit<OnlineDpoOptions, 'judge'> {
  /** Reward functions, before those that the option `reward` names. */
  rewards?: readonly RewardFunction<Row>[]
  /** Says which of two answers is the better, in place of rewards: a function, or the URL of a server whose model is asked. */
  judge?: PairwiseJudge<Row> | string | undefined
  /** Rows with a prompt, instead of files: an array, or an iterable, also an async one. */
  rows?: Rows<Row>
  evalRows?: Rows<Row>
}

/** A run of online DPO, ready to train; dispose() releases everything but the model. */
export interface OnlineDpoRun<Row extends object = AnyRow> {
  trainer: Trainer<OnlineDpoBatch>
  model: CausalLanguageModel
  tokenizer: Tokenizer
  data: PromptData<Row>
  /** Trains, and saves the final model and tokenizer into outputDir. */
  train: (options?: TrainOptions) => Promise<TrainResult>
  dispose: () => void
}

/** Options that decide a run's numbers, beside the model's and the trainer's. */
const decisiveNames = [
  'refModel', 'disableDropout', 'maxNewTokens', 'maxLength', 'temperature', 'topP', 'topK', 'minP', 'repetitionPenalty', 'stopStrings', 'missingEosPenalty', 'beta', 'lossType', 'rewardWeights',
  'maxPromptLength', 'chatTemplateKwargs', 'evalSplit', 'numGenerationsEval', 'judgeModel', 'judgePrompt', 'judgeOrder', 'judgeMaxTokens',
] as const satisfies readonly (keyof OnlineDpoArguments)[]

/**
 * Online DPO (Guo et al., arXiv 2402.04792): two answers of the policy to each prompt, ranked by reward functions, a reward model or a judge, and a step of
 * DPO or IPO on the pair. Options are TRL's OnlineDPOConfig in camelCase.
 *
 *     const run = await onlineDpo({ model: './sft', files: 'prompts.jsonl', rewardModel: './reward', outputDir: './out' })
 *     await run.train()
 */
export async function onlineDpo<Row extends object = AnyRow>(input: OnlineDpoInput<Row>): Promise<OnlineDpoRun<Row>> {
  const { rewards = [], judge: given, rows, evalRows, ...options } = givenOptions('onlineDpo', input, "model: './model', files: 'prompts.jsonl', outputDir: './out', rewards: [myReward]")
  const [judge, named] = typeof given === 'function' ? [given] : [undefined, given]
  const args = parseOptions(onlineDpoSchema, named === undefined ? options : { ...options, judge: named }, 'online-dpo')
  const { seed, maxNewTokens, maxLength, maxPromptLength, temperature, topP, topK, minP, repetitionPenalty, stopStrings, perDeviceTrainBatchSize, gradientAccumulationSteps, chatTemplateKwargs } = args
  if (maxNewTokens >= maxLength) throw new ConfigError(`maxNewTokens: expected less than maxLength ${maxLength}, so that some of the prompt is left in the loss, got ${maxNewTokens}`)
  const functions = await rankingFunctions(args, rewards, judge, evalRows !== undefined)
  const apiKey = apiKeyOf(args)
  const folder = args.tokenizer ?? args.model
  const tokenizer = await Tokenizer.fromPretrained(folder)
  checkVocabulary(tokenizer, await readConfig(args.model), folder)
  const model = await loadModel(args.model, args)
  const owned = new Owned()
  try {
    if (args.disableDropout) disableDropout(model)
    const { files, columns, evalFiles, evalSplit } = args
    const data = await loadPrompts<Row>({ files, rows, evalFiles, evalRows, evalSplit, columns, chatTemplateKwargs, seed, maxPromptLength, maxCompletionLength: maxNewTokens, lengthOption: 'maxNewTokens' }, model, tokenizer)
    const reference = owned.add(await Reference.of(model, args))
    const rewardModel = args.rewardModel === undefined ? [] : [owned.add(await loadJudge(args.rewardModel, tokenizer, { dtype: args.dtype, device: args.device })).reward as RewardFunction<Row>]
    const runner = new RewardRunner([...functions, ...rewardModel], { maxConcurrency: args.rewardConcurrency, timeout: args.rewardTimeout })
    const generation = {
      runner, rewardWeights: args.rewardWeights ?? runner.names.map(() => 1),
      source: args.rolloutServer !== undefined ? serverSource(args.rolloutServer, tokenizer, { model: args.rolloutServerModel, apiKey }) : (prompts: readonly Int32Array[], sampling: Parameters<typeof generateRollouts>[3]) => generateRollouts(model, tokenizer, prompts, sampling),
      sampling: {
        seed, numGenerations: 2, maxCompletionLength: maxNewTokens, temperature, topP, topK, minP, repetitionPenalty, stopStrings, chatTemplateKwargs,
        eosTokenId: [...answerEnds(model, tokenizer, data.train.some(({ prompt }) => typeof prompt !== 'string'))],
        maxBatchSize: args.maxBatchSize ?? 2 * perDeviceTrainBatchSize * gradientAccumulationSteps, bf16: args.bf16 ?? model.device.name !== 'cpu',
      },
    }
    const task = onlineDpoTask({
      ...generation, model, reference, tokenizer, prompts: data.train, fingerprint: data.fingerprint, perDeviceTrainBatchSize, gradientAccumulationSteps, maxLength,
      missingEosPenalty: args.missingEosPenalty, beta: args.beta, lossType: args.lossType, samplesToLog: args.numCompletionsToLog,
      ...(data.eval.length > 0 ? { measure: (signal?: AbortSignal) => measureRewards(generation, data.eval, args.numGenerationsEval, signal) } : {}),
    })
    const decisiveOptions = { ...decisiveModelOptions(args), ...Object.fromEntries(decisiveNames.map((name) => [name, args[name] ?? null])), rewards: runner.names }
    const sample = args.samplePrompts.length > 0 ? { sample: () => sampleTexts(model, tokenizer, args.samplePrompts) } : {}
    const trainer = owned.add(new Trainer({ ...task, ...sample, decisiveOptions }, trainingPart(args)))
    const keeping = modelKeeping(model, tokenizer)
    return { trainer, model, tokenizer, data, train: trainAndSave(trainer, () => keeping.save(args.outputDir)), dispose: () => { owned.dispose() } }
  } catch (error) {
    owned.dispose()
    model.dispose()
    throw error
  }
}
