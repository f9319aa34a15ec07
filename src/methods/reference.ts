import { join } from 'node:path'
import { z } from 'zod'
import { hasAdapters, loadAdapter, withoutAdapters } from '../adapters/index.ts'
import { ConfigError } from '../errors.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../models/index.ts'
import { loadWeights } from '../models/weights.ts'
import { add, mul } from '../ops/index.ts'
import { lazily } from '../options.ts'
import { autocast } from '../tensor/autocast.ts'
import { noGrad, scope, Tensor } from '../tensor/index.ts'
import type { ModelArguments } from './options.ts'

/** Options of a reference that follows the policy (TR-DPO, arXiv 2404.09656). */
export const referenceSyncShape = lazily(() => ({
  syncRefModel: z.boolean().default(false).describe('Move the reference towards the policy every refModelSyncSteps steps (TR-DPO)'),
  refModelMixupAlpha: z.number().gt(0).max(1).default(0.6).describe('Share of the policy in the new reference'),
  refModelSyncSteps: z.int().min(1).default(512).describe('Optimizer steps between two moves of the reference'),
} as const))

/** The options that decide what a reference is. */
export interface ReferenceArguments extends Pick<ModelArguments, 'dtype' | 'device' | 'quantize' | 'adapterPath'> {
  model: string
  refModel?: string | undefined
  precomputeRefLogProbs?: boolean
  syncRefModel?: boolean
  refModelMixupAlpha?: number
  refModelSyncSteps?: number
}

/** The parts of a TrainingTask that a reference which follows the policy adds to. */
export interface TaskParts {
  save: (folder: string) => Promise<void>
  load: (folder: string) => Promise<void>
  afterStep?: (step: number) => void
}

/**
 * The reference policy: the model of a folder, the model itself with its adapters off, or the model before training. The last two are the policy's
 * own weights; without adapters they must be copied, or their log-probabilities computed before the first step.
 */
export class Reference {
  readonly #policy: CausalLanguageModel
  readonly #other: CausalLanguageModel | undefined
  #computed: Map<object, readonly number[]> | undefined

  private constructor(policy: CausalLanguageModel, other: CausalLanguageModel | undefined) {
    this.#policy = policy
    this.#other = other
    other?.requiresGrad_(false)
    other?.eval()
  }

  static async of(policy: CausalLanguageModel, args: ReferenceArguments): Promise<Reference> {
    const load = (folder: string): Promise<CausalLanguageModel> => AutoModelForCausalLM.fromPretrained(folder, { dtype: args.dtype, device: args.device })
    if (args.syncRefModel) checkSync(policy, args)
    const reference = new Reference(policy, await otherModel(policy, args, load))
    try {
      if (args.syncRefModel) checkSameShape(policy, reference.#other!, args.refModel)
      return reference
    } catch (error) {
      reference.dispose()
      throw error
    }
  }

  /** Whether the numbers are computed before training. */
  get isPrecomputed(): boolean { return this.#computed !== undefined }

  /** Runs `body`, which must enqueue all its work before it returns, with the reference model: no gradient, no dropout. */
  run<T>(body: (reference: CausalLanguageModel) => T, options: { keepAdapters?: boolean } = {}): T {
    const model = this.#other ?? this.#policy
    const wasTraining = model.training
    model.eval()
    try {
      return noGrad(() => (this.#other || options.keepAdapters ? body(model) : withoutAdapters(model, () => body(model))))
    } finally {
      model.train(wasTraining)
    }
  }

  /**
   * Computes the numbers of every example, in batches; a second model is then of no more use. `logps` gives tensors with a number for each example; `keepAdapters`
   * takes the policy with its adapter, which it begins with.
   */
  async precompute<E extends object>(
    batches: Iterable<readonly E[]>, logps: (examples: readonly E[], reference: CausalLanguageModel) => readonly Tensor[], { bf16, keepAdapters }: { bf16: boolean, keepAdapters: boolean },
  ): Promise<void> {
    const computed = this.#computed ?? new Map<object, readonly number[]>()
    for (const examples of batches) {
      const columns = scope(() => this.run((model) => autocast(bf16 ? 'bfloat16' : 'float32', () => logps(examples, model)), { keepAdapters }).map((tensor) => tensor.toArray()))
      const values = await Promise.all(columns)
      examples.forEach((example, i) => { computed.set(example, values.map((column) => column[i]!)) })
    }
    this.#computed = computed
  }

  /** The precomputed numbers of some examples, number `which` of each, as a tensor like `like`. */
  of(examples: readonly object[], which: number, like: Tensor): Tensor {
    return Tensor.from(examples.map((example) => this.#computed!.get(example)![which]!), [examples.length], { dtype: like.dtype, device: like.device })
  }

  /** reference ← (1 - alpha) · reference + alpha · policy. */
  mix(alpha: number): void {
    const own = new Map(this.#policy.namedParameters())
    scope(() => {
      noGrad(() => {
        for (const [name, { tensor }] of this.#other!.namedParameters()) {
          const mixed = add(mul(tensor, 1 - alpha), mul(own.get(name)!.tensor, alpha))
          tensor.device.kernels.convert(tensor.handle, mixed.handle)
        }
      })
    })
  }

  /** The task with a reference that follows the policy where the options say so: moved after steps, and kept in checkpoints. */
  keptBy<T extends TaskParts>(task: T, { syncRefModel, refModelMixupAlpha = 0.6, refModelSyncSteps = 512 }: Pick<ReferenceArguments, 'syncRefModel' | 'refModelMixupAlpha' | 'refModelSyncSteps'>): T {
    const other = this.#other
    if (!syncRefModel || !other) return task
    return {
      ...task,
      afterStep: (step) => {
        task.afterStep?.(step)
        if (step % refModelSyncSteps === 0) this.mix(refModelMixupAlpha)
      },
      save: async (folder) => {
        await task.save(folder)
        await other.savePretrained(join(folder, 'reference'))
      },
      load: async (folder) => {
        await task.load(folder)
        await loadWeights(other, join(folder, 'reference'), other.dtype, other.device)
      },
    }
  }

  /** Releases a second model. */
  dispose(): void { this.#other?.dispose() }
}

async function otherModel(policy: CausalLanguageModel, args: ReferenceArguments, load: (folder: string) => Promise<CausalLanguageModel>): Promise<CausalLanguageModel | undefined> {
  if (args.refModel !== undefined) return load(args.refModel)
  if (args.adapterPath !== undefined && !args.precomputeRefLogProbs) {
    // An adapter that is trained on is part of where training begins.
    const other = await AutoModelForCausalLM.fromPretrained(args.model, { dtype: args.dtype, device: args.device, ...(args.quantize === undefined ? {} : { quantize: args.quantize }) })
    await loadAdapter(other, args.adapterPath, { baseModel: args.model })
    return other
  }
  return hasAdapters(policy) || args.precomputeRefLogProbs ? undefined : load(args.model)
}

/** TRL refuses the same. */
function checkSync(policy: CausalLanguageModel, { precomputeRefLogProbs }: ReferenceArguments): void {
  if (precomputeRefLogProbs) throw new ConfigError('syncRefModel, precomputeRefLogProbs: numbers computed before training are those of a reference that stays; leave one of them out')
  if (hasAdapters(policy)) throw new ConfigError('syncRefModel: with an adapter the reference is the model without it, which has no weights of its own to move; leave syncRefModel or the adapter out')
}

function checkSameShape(policy: CausalLanguageModel, other: CausalLanguageModel, folder: string | undefined): void {
  const shapes = (model: CausalLanguageModel): Map<string, string> => new Map([...model.namedParameters()].map(([name, { tensor }]) => [name, tensor.shape.join(' × ')]))
  const [own, theirs] = [shapes(policy), shapes(other)]
  for (const name of new Set([...own.keys(), ...theirs.keys()])) {
    if (own.get(name) !== theirs.get(name)) throw new ConfigError(`syncRefModel: refModel ${folder ?? ''} is of another shape than the policy: ${name} is ${theirs.get(name) ?? 'absent'}, and ${own.get(name) ?? 'absent'} in the policy; name a reference of the same architecture, or leave syncRefModel out`)
  }
}
