import { hasAdapters, withoutAdapters } from '../../adapters/index.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import { AutoModelForCausalLM } from '../../models/index.ts'

/** The policy that the KL is taken to. */
export interface Reference {
  /** Runs `body`, which must enqueue all its work before it returns, with the reference's weights. */
  readonly run: <T>(body: (model: CausalLanguageModel) => T) => T
  dispose(): void
}

/** The model without its adapters where it has some and no folder is named; else a second model, from `folder`. */
export async function loadReference(model: CausalLanguageModel, folder: string, refModel: string | undefined): Promise<Reference> {
  if (refModel === undefined && hasAdapters(model)) return { run: (body) => withoutAdapters(model, () => body(model)), dispose: () => undefined }
  const reference = await AutoModelForCausalLM.fromPretrained(refModel ?? folder, { dtype: model.dtype === 'bfloat16' ? 'bfloat16' : 'float32', device: model.device })
  reference.requiresGrad_(false)
  reference.eval()
  return { run: (body) => body(reference), dispose: () => { reference.dispose() } }
}
