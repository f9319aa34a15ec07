export type { QuantizedMerge } from './adapter.ts'
export {
  activeAdapters, adapterNames, addAdapter, deleteAdapter, hasAdapters, mergeAndUnload, parseAdapterOptions, setAdapter, withoutAdapters, type AddAdapterOptions, type MergeOptions,
} from './adapterSet.ts'
export { adapterSchema, type AdapterInput, type AdapterOptions, type BitfitOptions, type BottleneckOptions, type FreezeOptions, type Ia3Options, type LoraOptions, type PrefixOptions, type PromptOptions, type PTuningOptions } from './options.ts'
export { loadAdapter, loadAdapterWeights, saveAdapter, type LoadAdapterOptions, type SaveAdapterOptions } from './peftFile.ts'
