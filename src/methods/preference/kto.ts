import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { ConfigError } from '../../errors.ts'
import { permutation, preferenceKinds, truncated, type UnpairedExample } from '../../data/index.ts'
import { replaceFile } from '../../files/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import { mul, sub, sum } from '../../ops/index.ts'
import { givenOptions, lazily, parseOptions } from '../../options.ts'
import { Owned } from '../../owned.ts'
import { noGrad, Tensor, unscoped } from '../../tensor/index.ts'
import type { Sum } from '../../train/task.ts'
import { collateCompletions, sumOf, type CompletionBatch } from './collate.ts'
import { completionLogps } from './logps.ts'
import { klEstimate, ktoLoss } from './losses/index.ts'
import { updatedMean } from './losses/kto.ts'
import { ktoSchema, type KtoArguments, type KtoOptions } from './options.ts'
import { decisive, loadPolicy, loadTokenizerAndData, preparePreferenceRun, sampling, taskArguments, type PreparedPreferenceRun, type WithRows } from './prepare.ts'
import { Reference } from '../reference.ts'
import { batchesInOrder, preferenceTask, type Countable, type PreferenceLoss } from './task.ts'

/** Prompts with their completions, and for KTO's KL estimate each prompt with the completion of the row before it. */
export interface UnpairedBatch extends CompletionBatch, Countable {
  rows: readonly UnpairedExample[]
  mismatched: CompletionBatch | undefined
}

/** Collates rows; with `mismatch` completions are rotated by one within the batch: (x₁, yₙ), (x₂, y₁), …. */
export function collateUnpaired(rows: readonly UnpairedExample[], limits: { maxLength: number | null, mismatch: boolean }): UnpairedBatch {
  const cut = (prompt: UnpairedExample, completion: UnpairedExample) => truncated(prompt.promptIds, completion.completionIds, { maxLength: limits.maxLength, truncationMode: 'keep_start' })
  const batch = collateCompletions(rows.map((row) => cut(row, row)))
  const mismatched = limits.mismatch ? collateCompletions(rows.map((row, i) => cut(row, rows.at(i - 1)!))) : undefined
  return { ...batch, rows, mismatched, items: rows.length, labelled: sumOf(batch.lengths), tokens: batch.inputIds.length + (mismatched?.inputIds.length ?? 0) }
}

/** What TRL advises on the weights where the data is not balanced: (w_d n_d) / (w_u n_u) between 1 and 1.33 (eq. 8 of the paper). */
export function balanceWarning(rows: readonly UnpairedExample[], { desirableWeight, undesirableWeight }: Pick<KtoArguments, 'desirableWeight' | 'undesirableWeight'>): string | undefined {
  const desirable = Math.max(1, rows.filter(({ label }) => label).length)
  const undesirable = Math.max(1, rows.length - desirable)
  const ratio = (desirableWeight * desirable) / (undesirableWeight * undesirable)
  if (desirable === undesirable || (ratio >= 0.995 && ratio <= 1.335)) return undefined
  const range = (lower: number, upper: number): string => `[${lower.toFixed(2)}, ${upper.toFixed(2)}]`
  const [d, u] = [(undesirable * undesirableWeight) / desirable, (desirable * desirableWeight) / undesirable]
  return `${desirable} desirable and ${undesirable} undesirable rows: set desirableWeight in ${range(d, d * 1.33)} or undesirableWeight in ${range(u / 1.33, u)}, not both`
}

/**
 * KTO (arXiv 2402.01306), APO-zero for unpaired data, and BCO (2404.04656) without its density ratio: learns from single completions that are
 * desirable or not. Options are TRL's KTOConfig in camelCase. The rows are shuffled once, by the seed, and then come in that order in every epoch,
 * so that each keeps its partner of the KL estimate (TRL takes them in the data's order).
 */
export async function kto(input: WithRows<KtoOptions>): Promise<PreparedPreferenceRun<UnpairedExample, UnpairedBatch>> {
  const { rows, evalRows, ...options } = givenOptions('kto', input, "model: './model', files: 'data.jsonl', outputDir: './out'")
  const args = parseOptions(ktoSchema, options, 'kto')
  const { lossType, maxLength } = args
  if (args.truncationMode === 'keep_end') throw new ConfigError('truncationMode: KTO cuts ends only ("keep_start"), as TRL\'s')
  if (lossType === 'kto' && args.perDeviceTrainBatchSize < 2) throw new ConfigError('perDeviceTrainBatchSize: expected at least 2, as the KL of a row is estimated from another row of its batch, got 1')
  const longest = ({ promptIds, completionIds }: UnpairedExample): number => Math.min(maxLength ?? Infinity, promptIds.length + completionIds.length)
  const { tokenizer, data } = await loadTokenizerAndData(args, { rows, evalRows, make: preferenceKinds.unpaired, tokensOf: longest, longest })
  const warning = balanceWarning(data.train, args)
  const loaded = { ...data, warnings: [...data.warnings, ...warning === undefined ? [] : [warning]] }
  const train = Array.from(permutation(data.train.length, args.seed, 'shuffle'), (index) => data.train[index]!)
  const model = await loadPolicy(args)
  const owned = new Owned()
  try {
    const reference = owned.add(await Reference.of(model, args))
    const collate = (rows: readonly UnpairedExample[]): UnpairedBatch => collateUnpaired(rows, { maxLength, mismatch: lossType === 'kto' })
    const running = owned.add(new RunningMean(model))
    const task = preferenceTask({
      name: 'kto', model, tokenizer, train, eval: data.eval, fingerprint: data.fingerprint, ...taskArguments(args), shuffle: false, collate, loss: ktoStep(model, reference, running, args),
      decisiveOptions: decisive(args, ['lossType', 'beta', 'desirableWeight', 'undesirableWeight', 'refModel', 'precomputeRefLogProbs', 'syncRefModel', 'refModelMixupAlpha', 'refModelSyncSteps']),
      ...sampling(model, tokenizer, args.samplePrompts),
    })
    const kept = lossType === 'bco' ? { ...task, ...running.keptBy(task) } : task
    const run = preparePreferenceRun(args, { model, tokenizer, data: loaded, task: reference.keptBy(kept, args), final: kept, owned })
    if (args.precomputeRefLogProbs) {
      // A row's partner is of its own batch, so the batches must be those of training.
      for (const [rows, size] of [[train, args.perDeviceTrainBatchSize], [data.eval ?? [], args.perDeviceEvalBatchSize]] as const) {
        await reference.precompute(batchesInOrder(rows, size), (examples, other) => bothLogps(other, collate(examples)), { bf16: run.trainer.args.bf16 ?? false, keepAdapters: args.adapterPath !== undefined })
      }
      reference.dispose()
    }
    return run
  } catch (error) {
    owned.dispose()
    model.dispose()
    throw error
  }
}

/** Log-probabilities of the rows' completions, and of the mismatched ones where there are any. */
function bothLogps(model: CausalLanguageModel, batch: UnpairedBatch): Tensor[] {
  return [batch, ...batch.mismatched ? [batch.mismatched] : []].map((one) => {
    const { rows, logprob } = completionLogps(model, one)
    return rows.sum(logprob)
  })
}

function ktoStep(model: CausalLanguageModel, reference: Reference, running: RunningMean, args: KtoArguments): (batch: UnpairedBatch) => PreferenceLoss {
  const { lossType, beta } = args
  return (batch) => {
    const { rows, logprob } = completionLogps(model, batch)
    const logps = rows.sum(logprob)
    const mismatched = batch.mismatched && noGrad(() => bothLogps(model, { ...batch, ...batch.mismatched!, mismatched: undefined })[0]!)
    const [ref, refMismatched] = reference.isPrecomputed ? [0, 1].slice(0, batch.mismatched ? 2 : 1).map((which) => reference.of(batch.rows, which, logps)) : reference.run((other) => bothLogps(other, batch))
    const kl = mismatched && refMismatched ? klEstimate(mismatched, refMismatched) : undefined
    const baseline = lossType === 'bco' ? running.take(mul(sub(logps.detach(), ref!), beta), model.training) : kl
    const labels = batch.rows.map(({ label }) => label)
    const { losses, rewards } = ktoLoss({ logps, reference: ref!, labels, baseline }, args)
    return { loss: sum(losses), sums: { ...labelMetrics(rewards, logps, labels), ...kl ? { kl: { sum: kl, count: 1 } } : {}, ...lossType === 'bco' ? { delta: { sum: baseline!, count: 1 } } : {} } }
  }
}

/** Means over the desirable and over the undesirable rows, and the difference where a batch has both. */
function labelMetrics(rewards: Tensor, logps: Tensor, labels: readonly boolean[]): Record<string, Sum> {
  const over = (x: Tensor, wanted: boolean): Sum => ({
    sum: sum(mul(x.detach(), Tensor.from(labels.map((label) => Number(label === wanted)), [labels.length], { dtype: x.dtype, device: x.device }))), count: labels.filter((label) => label === wanted).length,
  })
  const [chosen, rejected] = [over(rewards, true), over(rewards, false)]
  return {
    ...chosen.count > 0 ? { 'rewards/chosen': chosen, 'logps/chosen': over(logps, true) } : {},
    ...rejected.count > 0 ? { 'rewards/rejected': rejected, 'logps/rejected': over(logps, false) } : {},
    ...chosen.count > 0 && rejected.count > 0 ? { 'rewards/margins': { sum: sub(mul(chosen.sum, 1 / chosen.count), mul(rejected.sum, 1 / rejected.count)), count: 1 } } : {},
  }
}

const runningState = lazily(() => z.strictObject({ mean: z.number(), count: z.number().min(0) }))

/** BCO's running mean of all rewards seen in training; checkpoints keep it in running.json, as TRL's do. */
class RunningMean {
  readonly #mean: Tensor
  #count = 0

  constructor({ device }: CausalLanguageModel) { this.#mean = unscoped(() => Tensor.zeros([], { device })) }

  /** The mean, after these rewards where they are trained on. A copy: what is enqueued keeps the value it saw. */
  take(rewards: Tensor, isTraining: boolean): Tensor {
    if (!isTraining) return mul(this.#mean, 1)
    const next = noGrad(() => updatedMean(this.#mean, this.#count, rewards))
    this.#mean.device.kernels.convert(this.#mean.handle, next.handle)
    this.#count += rewards.size
    return next
  }

  /** Save and load of a task, the mean with them. */
  keptBy(task: { save: (folder: string) => Promise<void>, load: (folder: string) => Promise<void> }): { save: (folder: string) => Promise<void>, load: (folder: string) => Promise<void> } {
    return {
      save: async (folder) => {
        await task.save(folder)
        await replaceFile(join(folder, 'running.json'), `${JSON.stringify({ mean: await this.#mean.item(), count: this.#count })}\n`)
      },
      load: async (folder) => {
        await task.load(folder)
        const { mean, count } = parseOptions(runningState, JSON.parse(await readFile(join(folder, 'running.json'), 'utf8')), 'running.json')
        this.#mean.copy_([mean])
        this.#count = count
      },
    }
  }

  dispose(): void { this.#mean.dispose() }
}
