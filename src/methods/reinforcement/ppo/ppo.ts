import { ConfigError } from '../../../errors.ts'
import type { Rows } from '../../../data/index.ts'
import { AutoModelForCausalLM, readConfig, type CausalLanguageModel } from '../../../models/index.ts'
import { Classifier } from '../../../models/sequenceClassification.ts'
import { PolicyWithValue } from '../../../models/valueHead.ts'
import { givenOptions, parseOptions } from '../../../options.ts'
import { Owned } from '../../../owned.ts'
import { RewardRunner, type AnyRow, type RewardFunction } from '../../../rewards/index.ts'
import { Tokenizer } from '../../../tokenizers/index.ts'
import { Trainer, type TrainOptions, type TrainResult } from '../../../train/index.ts'
import { decisiveModelOptions, loadModel } from '../../model.ts'
import { trainingPart } from '../../options.ts'
import { checkVocabulary } from '../../prepare.ts'
import type { EnvironmentFactory } from '../environment/environment.ts'
import type { PpoBatch } from './batch.ts'
import { ppoSchema, ppoShape, type PpoArguments, type PpoOptions, type PpoSettings } from './options.ts'
import { ppoTask } from './task.ts'
import { loadPrompts, type PromptData } from '../rollouts/prompts.ts'
import { loadJudge, rewardFunctions } from '../rewardSources.ts'
import { trainAndSave } from '../../trainAndSave.ts'

/** What ppo() takes beside the options that a file can hold. */
export interface PpoInput<Row extends object = AnyRow> extends PpoOptions {
  /** Judge answers; with rewardModel, its reward is added. */
  rewards?: readonly RewardFunction<Row>[]
  /** Makes the other side of each conversation; answers then are whole conversations. */
  environment?: EnvironmentFactory<Row>
  /** Rows with a prompt, instead of files: an array, or an iterable, also an async one. */
  rows?: Rows<Row>
}

/** A prepared PPO run. */
export interface PpoRun {
  trainer: Trainer<PpoBatch>
  /** The policy. */
  model: CausalLanguageModel
  tokenizer: Tokenizer
  data: PromptData
  /** Trains, and saves policy, tokenizer and value model into outputDir. */
  train: (options?: TrainOptions) => Promise<TrainResult>
  /** Releases everything but the policy. */
  dispose: () => void
}

const settingsOf = (args: PpoArguments): PpoSettings => Object.fromEntries(Object.entries(args).filter(([name]) => Object.hasOwn(ppoShape, name))) as PpoSettings

/** Options that change neither weights nor draws. */
const free = new Set(['rewardTimeout', 'rewardConcurrency', 'environmentTimeout'])

/**
 * PPO (Schulman et al. 2017; Ziegler et al. 2019): answers are sampled, judged by reward functions, a reward model or an environment, and learnt from for a
 * few passes, with a value model. Options are TRL's PPOConfig in camelCase. Returns the run, ready to train():
 *
 *     const run = await ppo({ model: './sft', rewardModel: './reward', files: 'prompts.jsonl', outputDir: './out' })
 */
export async function ppo<Row extends object = AnyRow>(input: PpoInput<Row>): Promise<PpoRun> {
  const { rewards: given = [], environment, rows, ...options } = givenOptions('ppo', input, "model: './model', files: 'prompts.jsonl', outputDir: './out', rewards: [myReward]")
  const args = parseOptions(ppoSchema, options, 'ppo')
  const rewards = await rewardFunctions(args, given as readonly RewardFunction[], environment ? 'adds' : 'none')
  const config = await readConfig(args.model)
  const tokenizer = await Tokenizer.fromPretrained(args.tokenizer ?? args.model)
  checkVocabulary(tokenizer, config, args.tokenizer ?? args.model)
  const owned = new Owned()
  let model: CausalLanguageModel | undefined
  try {
    model = await loadModel(args.model, args)
    const data = await loadPrompts({ files: args.files, rows: rows as Rows<AnyRow> | undefined, columns: args.columns, seed: args.seed, maxPromptLength: args.maxPromptLength, maxCompletionLength: args.responseLength, chatTemplateKwargs: args.chatTemplateKwargs, lengthOption: 'responseLength' }, model, tokenizer)
    const bf16 = args.bf16 ?? model.device.name !== 'cpu'
    const loading = { dtype: args.dtype, device: args.device }
    const judge = args.rewardModel === undefined ? undefined : owned.add(await loadJudge(args.rewardModel, tokenizer, loading))
    const value = args.valueModel === 'shared' ? undefined : owned.add(await Classifier.fromPretrained(args.valueModel ?? args.rewardModel ?? args.model, { ...loading, numLabels: 1, seed: args.seed }))
    if (value && args.gradientCheckpointing) value.model.gradientCheckpointingEnable()
    const reference = args.klCoef === 0 ? null : owned.add(await AutoModelForCausalLM.fromPretrained(args.refModel ?? args.model, loading))
    reference?.requiresGrad_(false)
    if (reference && reference.config.vocabSize < tokenizer.embeddingRows) throw new ConfigError(`refModel: ${args.refModel ?? args.model} knows ${reference.config.vocabSize} tokens, but the tokenizer has ids up to ${tokenizer.embeddingRows - 1}; use a model with the same tokenizer`)
    const policy = new PolicyWithValue(model, value ?? { seed: args.seed })
    if (policy.isShared) owned.add(policy.value)
    const all = [...rewards, ...judge ? [judge.reward as RewardFunction] : []]
    const runner = all.length === 0 ? null : new RewardRunner(all, { maxConcurrency: args.rewardConcurrency, timeout: args.rewardTimeout })
    const settings = settingsOf(args)
    const task = ppoTask({
      policy, reference, tokenizer, prompts: data.train, fingerprint: data.fingerprint, rewards: runner, environment: environment, chatTemplateKwargs: args.chatTemplateKwargs, settings,
      perDeviceTrainBatchSize: args.perDeviceTrainBatchSize, gradientAccumulationSteps: args.gradientAccumulationSteps, seed: args.seed, bf16,
    })
    const decisive = Object.fromEntries(Object.entries(settings).filter(([name]) => !free.has(name)))
    const trainer = owned.add(new Trainer({ ...task, decisiveOptions: { ...decisiveModelOptions(args), ...decisive, valueModel: args.valueModel ?? null } }, trainingPart(args)))
    return {
      trainer, model, tokenizer, data,
      train: trainAndSave(trainer, () => task.saveFinal(args.outputDir)),
      dispose: () => { owned.dispose() },
    }
  } catch (error) {
    model?.dispose()
    owned.dispose()
    throw error
  }
}
