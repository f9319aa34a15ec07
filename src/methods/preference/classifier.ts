import { addAdapter, loadAdapter, saveAdapter, type AdapterInput } from '../../adapters/index.ts'
import { ConfigError } from '../../errors.ts'
import { Classifier, type ClassifierKind } from '../../models/index.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'
import { modelKeeping, prepareModel } from '../model.ts'
import type { RewardArguments } from './options.ts'

/** The classifier of a folder as the options say, ready to be trained. With an adapter its head is trained and saved whole, as PEFT does. */
export async function loadClassifier(kind: ClassifierKind, args: RewardArguments, tokenizer: Tokenizer): Promise<Classifier> {
  const { adapter, adapterPath, seed, dtype, device, model: folder } = args
  if (adapter && adapterPath !== undefined) throw new ConfigError('adapter, adapterPath: a new adapter, or one to go on with; not both')
  const classifier = await Classifier.fromPretrained(folder, {
    kind, dtype, device, seed, withoutDropout: args.disableDropout, numLabels: kind === 'sequence' ? 1 : 2, padTokenId: tokenizer.padTokenId ?? tokenizer.eosTokenId ?? undefined,
  })
  try {
    if (adapter) await addAdapter(classifier.model, withHead(adapter, classifier.headName), { seed, baseModel: folder })
    else if (adapterPath !== undefined) await loadAdapter(classifier.model, adapterPath, { isTrainable: true, baseModel: folder })
    prepareModel(classifier.model, args)
    return classifier
  } catch (error) {
    classifier.dispose()
    throw error
  }
}

function withHead(adapter: NonNullable<RewardArguments['adapter']>, head: string): AdapterInput {
  if (!('modulesToSave' in adapter)) throw new ConfigError(`adapter: ${adapter.type} cannot train the new head ${head}; use lora or ia3`)
  return { ...adapter, modulesToSave: [...new Set([...adapter.modulesToSave, head])] }
}

/** modelKeeping of a classifier: an adapter is saved with the task that PEFT loads it for. */
export function classifierKeeping({ model, kind }: Classifier, tokenizer: Tokenizer, hasAdapter: boolean): Partial<ReturnType<typeof modelKeeping>> {
  if (!hasAdapter) return {}
  return {
    async save(folder) {
      await saveAdapter(model, folder, { taskType: kind === 'sequence' ? 'SEQ_CLS' : 'TOKEN_CLS' })
      await tokenizer.savePretrained(folder)
    },
  }
}
