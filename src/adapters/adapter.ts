import type { Parameter } from '../nn/index.ts'
import type { AdapterOptions } from './options.ts'
import type { TrainedTokens } from './virtualTokens.ts'

/** How a merge treats a base whose weights are quantised: rounded to their format again, or widened to the model's dtype first. */
export type QuantizedMerge = 'requantize' | 'dequantize'

/** A trained addition to a model, which can be switched off, on, saved, merged and taken out. */
export interface Adapter {
  readonly options: AdapterOptions
  /** Its parameters by their names in PEFT's file, without `base_model.model.`. */
  parameters(): Map<string, Parameter>
  /** Where it consists of virtual tokens: those, not the parameters that make them, are what PEFT's file holds. */
  readonly virtualTokens?: TrainedTokens
  /** Whether the model computes with it from now on. */
  activate(on: boolean): void
  /** Puts what it adds into the weights and takes it out. undefined where that cannot be. */
  merge?: (quantized: QuantizedMerge | undefined) => void
  /** Takes it out and releases it; the model is as before. */
  remove(): void
}
