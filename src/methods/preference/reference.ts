import { hasAdapters, loadAdapter, withoutAdapters } from '../../adapters/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../models/index.ts'
import { autocast } from '../../tensor/autocast.ts'
import { noGrad, scope, Tensor } from '../../tensor/index.ts'
import type { ReferenceArguments } from './options.ts'

/** Runs something with the reference model: no gradient, no dropout. */
export type WithReference = <T>(body: (reference: CausalLanguageModel) => T) => T

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
  }

  static async of(policy: CausalLanguageModel, args: ReferenceArguments): Promise<Reference> {
    const load = (folder: string): Promise<CausalLanguageModel> => AutoModelForCausalLM.fromPretrained(folder, { dtype: args.dtype, device: args.device })
    if (args.refModel !== undefined) return new Reference(policy, await load(args.refModel))
    if (args.adapterPath !== undefined && !args.precomputeRefLogProbs) {
      // An adapter that is trained on is part of where training begins.
      const other = await load(args.model)
      await loadAdapter(other, args.adapterPath, { baseModel: args.model })
      return new Reference(policy, other)
    }
    return new Reference(policy, hasAdapters(policy) || args.precomputeRefLogProbs ? undefined : await load(args.model))
  }

  /** Whether the numbers are computed before training. */
  get isPrecomputed(): boolean { return this.#computed !== undefined }

  /** Runs `body` with the reference model. */
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

  /** Releases a second model. */
  dispose(): void { this.#other?.dispose() }
}
