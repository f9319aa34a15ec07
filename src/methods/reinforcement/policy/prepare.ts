import { ConfigError } from '../../../errors.ts'
import type { Rows } from '../../../data/index.ts'
import { disableDropout, readConfig, type CausalLanguageModel } from '../../../models/index.ts'
import { RewardRunner, type AnyRow, type RewardFunction } from '../../../rewards/index.ts'
import { Tokenizer } from '../../../tokenizers/index.ts'
import { Trainer } from '../../../train/index.ts'
import { decisiveModelOptions, loadModel, modelKeeping } from '../../model.ts'
import { trainingPart } from '../../options.ts'
import { Owned } from '../../../owned.ts'
import { checkVocabulary, sampleTexts } from '../../prepare.ts'
import { Reference } from '../../reference.ts'
import type { AdaptiveEntropyOptions } from './adaptiveEntropy.ts'
import type { Advantages, Rewards } from './advantages.ts'
import { environmentRollouts } from '../rollouts/answers.ts'
import type { EnvironmentFactory } from '../environment/environment.ts'
import { measureRewards } from './measure.ts'
import type { GenerationOptions } from './generation.ts'
import type { PolicyBatch } from './batch.ts'
import type { ObjectiveOptions } from './objective.ts'
import type { PolicyArguments } from './options.ts'
import { policyTask, promptsPerGeneration } from './task.ts'
import { loadPrompts, type PromptData } from '../rollouts/prompts.ts'
import { loadJudge, rewardFunctions } from '../rewardSources.ts'
import { replaySource, RolloutLog } from '../rollouts/log.ts'
import { answerEnds, generateRollouts } from '../rollouts/rollouts.ts'
import { apiKeyOf, serverSource } from '../rollouts/server.ts'
import type { SamplerCorrection } from './samplerCorrection.ts'
import { trainAndSave } from '../../trainAndSave.ts'

/** What grpo() and rloo() take beside the options that a file can hold. */
export interface PolicyInput<Row extends object = AnyRow> {
  /** Reward functions, before those that the option `reward` names. */
  rewards?: readonly RewardFunction<Row>[] | undefined
  /** Makes the other side of each conversation; answers then are whole conversations, and what it gives stands last among the rewards. */
  environment?: EnvironmentFactory<Row> | undefined
  /** Rows with a prompt, instead of files: an array, or an iterable, also an async one. */
  rows?: Rows<Row> | undefined
  evalRows?: Rows<Row> | undefined
}

/** A run of GRPO or RLOO, ready to train; dispose() releases everything but the model. */
export interface PolicyRun<Row extends object = AnyRow> {
  trainer: Trainer<PolicyBatch>
  model: CausalLanguageModel
  tokenizer: Tokenizer
  data: PromptData<Row>
  /** Trains, and saves the final model and tokenizer into outputDir. */
  train: (options?: { signal?: AbortSignal }) => ReturnType<Trainer<PolicyBatch>['train']>
  dispose: () => void
}

/** What GRPO and RLOO differ in. */
export interface PolicyMethod {
  name: 'grpo' | 'rloo'
  objective: ObjectiveOptions
  /** Weighs answers of another engine; null for no weights. */
  correction: SamplerCorrection | null
  /** null for a bonus that stays. */
  adaptiveEntropy: AdaptiveEntropyOptions | null
  /** Whether the KL is part of the reward; otherwise it is part of the loss. */
  klInReward: boolean
  advantages: (rewards: Rewards, kl: Float64Array | undefined) => Promise<Advantages>
  topEntropyQuantile: number
  offPolicyMaskThreshold: number | null
}

/** Reads model, prompts and reward functions and puts them together into a trainer. */
export async function preparePolicy<Row extends object>(args: PolicyArguments, { rewards = [], environment, rows, evalRows }: PolicyInput<Row>, method: PolicyMethod): Promise<PolicyRun<Row>> {
  const { gradientAccumulationSteps, numGenerations, perDeviceTrainBatchSize } = args
  const stepsPerGeneration = stepsOf(args)
  const answers = perDeviceTrainBatchSize * stepsPerGeneration
  if (answers % numGenerations !== 0) {
    throw new ConfigError(`numGenerations: a generation is perDeviceTrainBatchSize × stepsPerGeneration = ${perDeviceTrainBatchSize} × ${stepsPerGeneration} = ${answers} answers, which is no multiple of numGenerations ${numGenerations}; change one of them`)
  }
  if (args.syncRefModel && args.beta === 0) throw new ConfigError('syncRefModel: with beta 0 there is no reference to move; give beta above 0, or leave syncRefModel out')
  if (args.replay !== undefined && args.rolloutServer !== undefined) throw new ConfigError('replay and rolloutServer: give one of them at most')
  const other = args.replay !== undefined ? 'replay' : args.rolloutServer !== undefined ? 'rolloutServer' : undefined
  if (environment && other !== undefined) throw new ConfigError(`${other}: it gives single answers, but an environment takes part in conversations; leave out ${other} or the environment`)
  const functions = await rewardFunctions(args, rewards, environment ? 'weighed' : 'none')
  const apiKey = apiKeyOf(args)
  const config = await readConfig(args.model)
  const tokenizer = await Tokenizer.fromPretrained(args.tokenizer ?? args.model)
  checkVocabulary(tokenizer, config, args.tokenizer ?? args.model)
  const model = await loadModel(args.model, args)
  const owned = new Owned()
  try {
    if (args.disableDropout) disableDropout(model)
    const { files, columns, evalFiles, evalSplit, seed, maxPromptLength, maxCompletionLength } = args
    const data = await loadPrompts<Row>({ files, rows, evalFiles, evalRows, evalSplit, columns, seed, maxPromptLength, maxCompletionLength, chatTemplateKwargs: args.chatTemplateKwargs }, model, tokenizer)
    const perGeneration = promptsPerGeneration({ perDeviceTrainBatchSize, stepsPerGeneration, numGenerations })
    if (data.train.length < perGeneration) {
      throw new ConfigError(`files: there are ${data.train.length} prompts, but a generation takes ${perGeneration}; add prompts, raise numGenerations or lower perDeviceTrainBatchSize`)
    }
    const reference = args.beta > 0 ? owned.add(await Reference.of(model, args)) : undefined
    const talks = environment && environmentRollouts<Row>(model, tokenizer, [...data.train, ...data.eval], { environment, maxTurns: args.maxTurns, environmentTimeout: args.environmentTimeout })
    const judge = args.rewardModel === undefined ? undefined : owned.add(await loadJudge(args.rewardModel, tokenizer, { dtype: args.dtype, device: args.device }))
    const runner = new RewardRunner([...functions, ...judge ? [judge.reward as RewardFunction<Row>] : [], ...talks ? [talks.reward] : []], { maxConcurrency: args.rewardConcurrency, timeout: args.rewardTimeout })
    const conversational = data.train.some(({ prompt }) => typeof prompt !== 'string')
    const ends = [...answerEnds(model, tokenizer, conversational)]
    const log = args.rolloutLog === undefined ? undefined : new RolloutLog(args.rolloutLog, runner.names, args.resumeFromCheckpoint !== false)
    // An update trains on what the policy of the moment sampled only if it uses up a generation.
    const isAligned = gradientAccumulationSteps % (stepsPerGeneration * args.numIterations) === 0
    const generation: GenerationOptions<Row> = {
      model, tokenizer, prompts: data.train, runner, rewardWeights: args.rewardWeights ?? runner.names.map(() => 1), promptsPerGeneration: perGeneration,
      source: args.replay !== undefined ? await replaySource(args.replay)
        : args.rolloutServer !== undefined ? serverSource(args.rolloutServer, tokenizer, { model: args.rolloutServerModel, apiKey })
          : talks ? talks.source : (prompts, options) => generateRollouts(model, tokenizer, prompts, options),
      sampling: {
        seed, numGenerations, maxCompletionLength, temperature: args.temperature, topP: args.topP, topK: args.topK, minP: args.minP, repetitionPenalty: args.repetitionPenalty, stopStrings: args.stopStrings,
        eosTokenId: ends, maxBatchSize: args.maxBatchSize ?? answers, chatTemplateKwargs: args.chatTemplateKwargs, bf16: args.bf16 ?? model.device.name !== 'cpu',
      },
      dynamicSamplingRounds: args.dynamicSamplingRounds, maskTruncatedCompletions: args.maskTruncatedCompletions, shuffle: args.shuffleDataset, isForeign: args.rolloutServer !== undefined, correction: method.correction, batchSize: perDeviceTrainBatchSize,
      needsOld: !isAligned || (method.klInReward && reference !== undefined) || args.replay !== undefined || args.rolloutServer !== undefined, klInReward: method.klInReward,
      reference: reference && ((body) => reference.run(body)), advantages: method.advantages, samplesToLog: args.numCompletionsToLog,
      ...(log ? { onGeneration: (step, groups, rollouts) => log.write(step, groups, rollouts.map(({ advantage }) => advantage)) } : {}),
    }
    const task = policyTask({
      ...method.objective, name: method.name, fingerprint: data.fingerprint, generation, perDeviceTrainBatchSize, gradientAccumulationSteps, stepsPerGeneration, numIterations: args.numIterations,
      topEntropyQuantile: method.topEntropyQuantile, offPolicyMaskThreshold: method.offPolicyMaskThreshold, adaptiveEntropy: method.adaptiveEntropy,
      ...(data.eval.length > 0 ? { measure: (signal?: AbortSignal) => measureRewards(generation, data.eval, args.numGenerationsEval, signal) } : {}),
    })
    const decisiveOptions = { ...decisiveModelOptions(args), ...decisivePolicyOptions(args), rewards: runner.names }
    const warned = data.leftOut > 0 ? [`${data.leftOut} rows are left out, as their prompts are longer than maxPromptLength ${maxPromptLength!}`] : []
    const sample = args.samplePrompts.length > 0 ? { sample: () => sampleTexts(model, tokenizer, args.samplePrompts) } : {}
    const trainer = owned.add(new Trainer({ ...reference ? reference.keptBy(task, args) : task, ...sample, decisiveOptions, batches: warnOnce(task.batches.bind(task), warned) }, trainingPart(args)))
    const keeping = modelKeeping(model, tokenizer)
    return {
      trainer, model, tokenizer, data,
      train: trainAndSave(trainer, () => keeping.save(args.outputDir)),
      dispose: () => { owned.dispose() },
    }
  } catch (error) {
    owned.dispose()
    model.dispose()
    throw error
  }
}

/** The names are those of both schemas; what a method lacks is null. */
const decisiveNames = [
  'numGenerations', 'beta', 'epsilon', 'epsilonHigh', 'delta', 'importanceSamplingLevel', 'lossType', 'scaleRewards', 'multiObjectiveAggregation', 'useBiasCorrectionKl', 'topEntropyQuantile', 'entropyCoef',
  'offPolicyMaskThreshold', 'sapoTemperaturePos', 'sapoTemperatureNeg', 'vespoKPos', 'vespoLambdaPos', 'vespoKNeg', 'vespoLambdaNeg', 'useAdaptiveEntropy', 'entropyCoefMin', 'entropyCoefMax', 'entropyCoefDelta', 'entropyTarget', 'vllmImportanceSamplingCorrection',
  'vllmImportanceSamplingMode', 'vllmImportanceSamplingClipMax', 'vllmImportanceSamplingClipMin', 'disableDropout', 'shuffleDataset', 'numGenerationsEval', 'normalizeAdvantages', 'rewardClipRange', 'maxCompletionLength', 'temperature', 'topP', 'topK', 'minP',
  'repetitionPenalty', 'stopStrings', 'syncRefModel', 'refModelMixupAlpha', 'refModelSyncSteps', 'stepsPerGeneration', 'generationBatchSize', 'numIterations', 'maskTruncatedCompletions', 'dynamicSamplingRounds', 'maxTurns', 'rewardWeights', 'maxPromptLength', 'evalSplit',
]
const decisivePolicyOptions = (args: Readonly<Record<string, unknown>>): Record<string, unknown> => Object.fromEntries(decisiveNames.map((name) => [name, args[name] ?? null]))

/** Micro-batches that one generation is cut into. */
function stepsOf({ stepsPerGeneration, generationBatchSize, perDeviceTrainBatchSize, gradientAccumulationSteps }: PolicyArguments): number {
  if (generationBatchSize === undefined) return stepsPerGeneration ?? gradientAccumulationSteps
  if (stepsPerGeneration !== undefined) throw new ConfigError('generationBatchSize, stepsPerGeneration: both say how large a generation is; give one of them')
  if (generationBatchSize % perDeviceTrainBatchSize !== 0) throw new ConfigError(`generationBatchSize: expected a multiple of perDeviceTrainBatchSize ${perDeviceTrainBatchSize}, got ${generationBatchSize}`)
  return generationBatchSize / perDeviceTrainBatchSize
}

/** Adds warnings to the first batches that are made. */
function warnOnce<B extends { warnings?: readonly string[] }>(batches: (step: number) => B | Promise<B>, warnings: readonly string[]): (step: number) => Promise<B> {
  let left = warnings
  return async (step) => {
    const result = await batches(step)
    const all = [...left, ...result.warnings ?? []]
    left = []
    return { ...result, warnings: all }
  }
}
