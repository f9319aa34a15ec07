export type { QuantizedMerge } from './adapter.ts'
export {
  activeAdapters, adapterNames, addAdapter, deleteAdapter, hasAdapters, mergeAndUnload, parseAdapterOptions, setAdapter, withoutAdapters, type AddAdapterOptions, type MergeOptions,
} from './adapterSet.ts'
export { adapterSchema, type AdapterInput, type AdapterOptions } from './options.ts'
export { loadAdapter, loadAdapterWeights, saveAdapter, type LoadAdapterOptions, type SaveAdapterOptions } from './peftFile.ts'
export { AutoPeftModelForCausalLM, type AutoPeftOptions } from './auto.ts'
export { addWeightedAdapter, type WeightedAdapterOptions } from './combine.ts'
