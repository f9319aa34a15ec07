import { join } from 'node:path'
import { ConfigError, ShapeError } from '../errors.ts'
import { givenOptions } from '../options.ts'
import { readJsonObject } from '../files/index.ts'
import { Linear } from '../nn/index.ts'
import { embedding } from '../ops/index.ts'
import { defaultDevice, device as deviceOf, scope, Tensor, type Device, type DType } from '../tensor/index.ts'
import type { BatchInput, TokenArray } from './batch.ts'
import { CausalLanguageModel } from './causal.ts'
import { architecturePart, classifierConfig, isClassifier, newLabels, storedLabels, storedProblemType, withoutArchitectures, type ClassifierKind, type LabelOptions, type ProblemType } from './classifierLabels.ts'
import { isEncoderConfig, parseConfig, parseEncoderConfig, type AnyModelConfig, type ModelConfig, type RawConfig } from './config.ts'
import { disableDropout } from './dropout.ts'
import type { EncoderInput } from './encoder.ts'
import { buildEncoderClassifier, EncoderClassifier } from './encoderClassifier.ts'
import { logitsOf } from './logits.ts'
import { AutoModelForCausalLM, buildModel, type FromPretrainedOptions } from './pretrained.ts'
import type { PretrainedModel } from './pretrainedModel.ts'
import { loadWeights } from './weights.ts'

/** Of a classifier on a pretrained body. */
export interface ClassifierOptions extends Omit<FromPretrainedOptions, 'quantize'>, LabelOptions {
  /** Default 'sequence'. */
  kind?: ClassifierKind
  /** What the labels are; written to config.json. Default: what stands there. */
  problemType?: ProblemType | undefined
  /** Of a new head's initial weights. Default 42. */
  seed?: number
  /** Written to config.json, as transformers needs it to find the last token of padded rows. */
  padTokenId?: number | undefined
  /** Leave dropout out. Default false. */
  withoutDropout?: boolean
}

/** config.json of a language model or a classifier: what both say of the layers. */
export async function readBaseConfig(folder: string): Promise<AnyModelConfig> {
  const path = join(folder, 'config.json')
  const raw = await readJsonObject(path)
  if (isEncoderConfig(raw)) return parseEncoderConfig(raw, path)
  return parseConfig([raw.architectures].flat().some(isClassifier) ? withoutArchitectures(raw) : raw, path)
}

/**
 * A classifier of sequences or tokens, as transformers' ForSequenceClassification and ForTokenClassification; transformers loads what it saves, and the
 * other way round. A decoder's linear layer stands on each sequence's last token (without bias) or on every token (with bias), an encoder's on what its
 * family makes of the first token, or on every token.
 */
export class Classifier {
  /** The model with the head in the language model's place: train, freeze, adapt and save this. */
  readonly model: PretrainedModel
  readonly kind: ClassifierKind
  /** The head's name in the checkpoint. */
  readonly headName: string
  /** The labels' names, in the order of the outputs. */
  readonly labels: readonly string[]
  readonly problemType: ProblemType | undefined
  /** The layer that gives the labels' logits. */
  readonly head: Linear

  private constructor(model: PretrainedModel, kind: ClassifierKind, labels: readonly string[], problemType: ProblemType | undefined, head: { layer: Linear, name: string }) {
    this.model = model
    this.kind = kind
    this.labels = labels
    this.problemType = problemType
    this.headName = head.name
    this.head = head.layer
  }

  get numLabels(): number { return this.labels.length }

  /** The model, where it is a decoder. Throws ConfigError for an encoder, where `purpose` says who needs one. */
  decoder(purpose: string): CausalLanguageModel {
    if (this.model instanceof CausalLanguageModel) return this.model
    throw new ConfigError(`${purpose}: expected a decoder, whose tokens see only those before them, got ${this.model.config.architecture}`)
  }

  /**
   * A classifier from a model folder: a saved one with its head, or a language model with a new one. Throws ConfigError where the folder holds a
   * classifier of another kind or number of labels.
   */
  static async fromPretrained(folder: string, options: ClassifierOptions = {}): Promise<Classifier> {
    givenOptions('fromPretrained', options, "dtype: 'bfloat16'")
    const { kind = 'sequence', seed = 42, dtype = 'float32', device = defaultDevice(), padTokenId, withoutDropout = false } = options
    const path = join(folder, 'config.json')
    const raw: RawConfig = { ...await readJsonObject(path), ...options.config, ...padTokenId === undefined ? {} : { pad_token_id: padTokenId } }
    const architecture = [raw.architectures].flat().find(isClassifier)
    if (architecture !== undefined && !architecture.endsWith(architecturePart[kind])) throw new ConfigError(`${path}: architectures: expected a model ${architecturePart[kind]}, or a language model, got ${JSON.stringify(architecture)}`)
    const labels = architecture === undefined ? newLabels(options, kind) : storedLabels(raw, path)
    const wanted = options.id2label?.length ?? options.numLabels
    if (wanted !== undefined && wanted !== labels.length) throw new ConfigError(`${path}: expected ${wanted} label${wanted === 1 ? '' : 's'}, got ${labels.length}: ${labels.join(', ')}`)
    const problemType = options.problemType ?? storedProblemType(raw, path)
    const isNew = architecture === undefined
    if (isEncoderConfig(raw)) {
      const model = buildEncoderClassifier(classifierConfig(parseEncoderConfig(raw, path), kind, labels, problemType), kind, labels.length)
      if (withoutDropout) disableDropout(model)
      await loadWeights(model, folder, dtype, deviceOf(device), undefined, isNew ? { names: model.newTensors, seed } : undefined)
      return new Classifier(model, kind, labels, problemType, { layer: model.output, name: 'classifier' })
    }
    const model = isNew
      ? await AutoModelForCausalLM.fromPretrained(folder, { dtype, device, config: { ...options.config, ...padTokenId === undefined ? {} : { pad_token_id: padTokenId } } })
      : buildModel(parseConfig(withoutArchitectures(raw), path))
    if (withoutDropout) disableDropout(model)
    const head = new Linear(model.config.hiddenSize, labels.length, { bias: kind === 'token', deviation: model.config.initializerRange })
    const name = decoderHeadName(model.config, kind)
    replaceHead(model, name, head)
    model.config = classifierConfig(model.config, kind, labels, problemType)
    if (isNew) initialiseHead(model, head, name, seed)
    else await loadWeights(model, folder, dtype, deviceOf(device))
    return new Classifier(model, kind, labels, problemType, { layer: head, name })
  }

  /** Logits of each sequence, [sequences, labels]; float32 where the model has 16 bits. A sequence must not be empty. */
  forward(input: BatchInput | EncoderInput): Tensor {
    const { model } = this
    if (model instanceof EncoderClassifier) return model.forward(input)
    return scope(() => {
      const cuSeqlens = boundsOf(input)
      const rows = Int32Array.from(cuSeqlens.slice(1), (end, i) => {
        if (end <= cuSeqlens[i]!) throw new ShapeError(`inputIds: sequence ${i} is empty; a classifier needs at least one token`)
        return end - 1
      })
      const hidden = model.base(input).lastHiddenState
      return logitsOf(this.head, embedding(hidden, Tensor.from(rows, [rows.length], { device: hidden.device })))
    })
  }

  /** Logits of each token, [tokens, labels]. */
  tokenLogits(input: BatchInput | EncoderInput): Tensor {
    const { model } = this
    return model instanceof EncoderClassifier ? model.forward(input) : scope(() => logitsOf(this.head, model.base(input).lastHiddenState))
  }

  get device(): Device { return this.model.device }
  get dtype(): DType { return this.model.dtype }
  savePretrained(folder: string): Promise<void> { return this.model.savePretrained(folder) }
  dispose(): void { this.model.dispose() }
}

/** Gives a new head its values; without memory for them the model is released. */
function initialiseHead(model: CausalLanguageModel, head: Linear, prefix: string, seed: number): void {
  const { dtype, device } = model
  try {
    head.initialise({ seed, dtype, device, prefix })
  } catch (error) {
    model.dispose()
    throw error
  }
}

/** transformers calls GPT-2's token head otherwise than all others. */
const decoderHeadName = (config: ModelConfig, kind: ClassifierKind): string => (config.kind === 'gpt2' && kind === 'token' ? 'classifier' : 'score')

/** Puts another head into the tree of modules. The language model's is left out of it, so that it is neither saved nor trained nor given memory. */
function replaceHead(model: CausalLanguageModel, name: string, head: Linear): void {
  const old = model.lm_head
  if (!model.config.tieWordEmbeddings) old.dispose()
  Object.defineProperty(model, 'lm_head', { value: old, enumerable: false, writable: true, configurable: true })
  Object.defineProperty(model, name, { value: head, enumerable: true, writable: true, configurable: true })
}

/** Where the sequences of an input begin and end. */
function boundsOf({ inputIds, cuSeqlens, attentionMask }: BatchInput | EncoderInput): number[] {
  if (cuSeqlens) return Array.from(cuSeqlens)
  if (inputIds instanceof Tensor) return [0, inputIds.size]
  const nested = typeof inputIds[0] === 'object' ? inputIds as readonly TokenArray[] : [inputIds as TokenArray]
  const bounds = [0]
  nested.forEach((part, i) => { bounds.push(bounds[i]! + (attentionMask?.[i] ? Array.from(attentionMask[i]).filter(Boolean).length : part.length)) })
  return bounds
}
