import { join } from 'node:path'
import { ConfigError, ShapeError } from '../errors.ts'
import { readJsonObject, type JsonValue } from '../files/index.ts'
import { Linear } from '../nn/index.ts'
import { embedding, toDtype } from '../ops/index.ts'
import { bytesOf, defaultDevice, device as deviceOf, scope, Tensor, type Device, type DType } from '../tensor/index.ts'
import type { BatchInput, TokenArray } from './batch.ts'
import type { CausalLanguageModel } from './causal.ts'
import { parseConfig, type ModelConfig, type RawConfig } from './config.ts'
import { disableDropout } from './dropout.ts'
import { AutoModelForCausalLM, buildModel, type FromPretrainedOptions } from './pretrained.ts'
import { loadWeights } from './weights.ts'

/** One answer a sequence, from its last token, or one a token. */
export type ClassifierKind = 'sequence' | 'token'

const architecturePart = { sequence: 'ForSequenceClassification', token: 'ForTokenClassification' } as const
const languageModelPart = /ForCausalLM$|LMHeadModel$/

export interface ClassifierOptions extends Omit<FromPretrainedOptions, 'quantize'> {
  /** Default 'sequence'. */
  kind?: ClassifierKind
  /** Outputs of a new head, whose names are `id2label`'s. Default 1 for sequences, as a reward model has, and 2 for tokens. */
  numLabels?: number
  id2label?: readonly string[]
  /** Of a new head's initial weights. Default 42. */
  seed?: number
  /** Written to config.json, as transformers needs it to find the last token of padded rows. */
  padTokenId?: number | undefined
  /** Leave dropout out. Default false. */
  withoutDropout?: boolean
}

const isClassifier = (name: unknown): name is string => typeof name === 'string' && /For(?:Sequence|Token)Classification$/.test(name)

/** config.json of a language model or a classifier: what both say of the decoder. */
export async function readDecoderConfig(folder: string): Promise<ModelConfig> {
  const path = join(folder, 'config.json')
  const raw = await readJsonObject(path)
  return parseConfig([raw.architectures].flat().some(isClassifier) ? withoutArchitectures(raw) : raw, path)
}

/**
 * A decoder with a linear layer on its last hidden states, as transformers' ForSequenceClassification (on each sequence's last token, without bias)
 * and ForTokenClassification (on every token, with bias). transformers loads what it saves, and the other way round.
 */
export class Classifier {
  /** The decoder, with the head in the language model's place: train, freeze, adapt and save this. */
  readonly model: CausalLanguageModel
  readonly kind: ClassifierKind
  readonly head: Linear
  /** The head's name in the checkpoint. */
  get headName(): string { return headName(this.model.config, this.kind) }
  /** The labels' names, in the order of the outputs. */
  readonly labels: readonly string[]

  private constructor(model: CausalLanguageModel, kind: ClassifierKind, labels: readonly string[], withoutDropout: boolean) {
    if (withoutDropout) disableDropout(model)
    const { config } = model
    this.model = model
    this.kind = kind
    this.labels = labels
    this.head = new Linear(config.hiddenSize, labels.length, { bias: kind === 'token', deviation: config.initializerRange })
    replaceHead(model, headName(config, kind), this.head)
    model.config = classifierConfig(config, kind, labels)
  }

  get numLabels(): number { return this.labels.length }

  /**
   * A classifier from a model folder: a saved one with its head, or a causal language model with a new one. Throws ConfigError where the folder holds
   * a classifier of another kind or number of labels.
   */
  static async fromPretrained(folder: string, options: ClassifierOptions = {}): Promise<Classifier> {
    const { kind = 'sequence', seed = 42, dtype = 'float32', device = defaultDevice(), padTokenId, withoutDropout = false } = options
    const path = join(folder, 'config.json')
    const raw = { ...await readJsonObject(path), ...options.config }
    const architecture = [raw.architectures].flat().find(isClassifier)
    const pad = padTokenId === undefined ? {} : { pad_token_id: padTokenId }
    if (architecture === undefined) {
      const model = await AutoModelForCausalLM.fromPretrained(folder, { dtype, device, config: { ...options.config, ...pad } })
      const classifier = new Classifier(model, kind, newLabels(options, kind), withoutDropout)
      for (const [name, parameter] of classifier.head.namedParameters(headName(model.config, kind))) parameter.initialise(name, seed, model.dtype, model.device)
      return classifier
    }
    if (!architecture.endsWith(architecturePart[kind])) throw new ConfigError(`${path}: architectures: expected a model ${architecturePart[kind]}, or a causal language model, got ${JSON.stringify(architecture)}`)
    const labels = storedLabels(raw, path)
    const wanted = options.id2label?.length ?? options.numLabels
    if (wanted !== undefined && wanted !== labels.length) throw new ConfigError(`${path}: expected ${wanted} label${wanted === 1 ? '' : 's'}, got ${labels.length}: ${labels.join(', ')}`)
    const classifier = new Classifier(buildModel(parseConfig(withoutArchitectures({ ...raw, ...pad }), path)), kind, labels, withoutDropout)
    await loadWeights(classifier.model, folder, dtype, deviceOf(device))
    return classifier
  }

  /** Logits of each sequence, [sequences, labels]; float32 where the model has 16 bits. A sequence must not be empty. */
  forward(input: BatchInput): Tensor {
    return scope(() => {
      const cuSeqlens = boundsOf(input)
      const rows = Int32Array.from(cuSeqlens.slice(1), (end, i) => {
        if (end <= cuSeqlens[i]!) throw new ShapeError(`inputIds: sequence ${i} is empty; a classifier needs at least one token`)
        return end - 1
      })
      const hidden = this.model.base(input).lastHiddenState
      return this.#logits(embedding(hidden, Tensor.from(rows, [rows.length], { device: hidden.device })))
    })
  }

  /** Logits of each token, [tokens, labels]. */
  tokenLogits(input: BatchInput): Tensor { return scope(() => this.#logits(this.model.base(input).lastHiddenState)) }

  #logits(hidden: Tensor): Tensor {
    const logits = this.head.forward(hidden)
    return bytesOf(logits.dtype) === 2 ? toDtype(logits, 'float32') : logits
  }

  get device(): Device { return this.model.device }
  get dtype(): DType { return this.model.dtype }
  savePretrained(folder: string): Promise<void> { return this.model.savePretrained(folder) }
  dispose(): void { this.model.dispose() }
}

/** transformers calls GPT-2's token head otherwise than all others. */
const headName = (config: ModelConfig, kind: ClassifierKind): string => (config.kind === 'gpt2' && kind === 'token' ? 'classifier' : 'score')

/** Puts another head into the tree of modules. The language model's is left out of it, so that it is neither saved nor trained nor given memory. */
function replaceHead(model: CausalLanguageModel, name: string, head: Linear): void {
  const old = model.lm_head
  if (!model.config.tieWordEmbeddings) old.dispose()
  Object.defineProperty(model, 'lm_head', { value: old, enumerable: false, writable: true, configurable: true })
  Object.defineProperty(model, name, { value: head, enumerable: true, writable: true, configurable: true })
}

function classifierConfig(config: ModelConfig, kind: ClassifierKind, labels: readonly string[]): ModelConfig {
  const architecture = config.architecture.replace(languageModelPart, architecturePart[kind])
  const raw: RawConfig = {
    ...config.raw, id2label: Object.fromEntries(labels.map((label, i) => [String(i), label])), label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
  }
  return { ...config, architecture, raw }
}

function newLabels({ numLabels, id2label }: ClassifierOptions, kind: ClassifierKind): readonly string[] {
  const count = numLabels ?? id2label?.length ?? (kind === 'sequence' ? 1 : 2)
  if (!Number.isInteger(count) || count < 1) throw new ConfigError(`numLabels: expected a whole number from 1, got ${count}`)
  if (id2label && id2label.length !== count) throw new ConfigError(`id2label: expected ${count} names, as numLabels says, got ${id2label.length}`)
  return id2label ?? Array.from({ length: count }, (_, i) => `LABEL_${i}`)
}

/** The labels of a saved classifier; config.json leaves them out where they are transformers' own two. */
function storedLabels({ id2label, num_labels: count }: RawConfig, path: string): readonly string[] {
  if (id2label === undefined || id2label === null) return Array.from({ length: typeof count === 'number' ? count : 2 }, (_, i) => `LABEL_${i}`)
  const table = id2label as { readonly [key: string]: JsonValue }
  const labels = typeof table === 'object' && !Array.isArray(table) ? Object.keys(table).map((_, i) => table[i]) : []
  if (labels.length === 0 || labels.some((label) => typeof label !== 'string')) throw new ConfigError(`${path}: id2label: expected names by the numbers "0", "1", …, got ${JSON.stringify(id2label)}`)
  return labels as string[]
}

const withoutArchitectures = ({ architectures: _, ...rest }: RawConfig): RawConfig => rest

/** Where the sequences of an input begin and end. */
function boundsOf({ inputIds, cuSeqlens, attentionMask }: BatchInput): number[] {
  if (cuSeqlens) return Array.from(cuSeqlens)
  if (inputIds instanceof Tensor) return [0, inputIds.size]
  const nested = typeof inputIds[0] === 'object' ? inputIds as readonly TokenArray[] : [inputIds as TokenArray]
  const bounds = [0]
  nested.forEach((part, i) => { bounds.push(bounds[i]! + (attentionMask?.[i] ? Array.from(attentionMask[i]).filter(Boolean).length : part.length)) })
  return bounds
}
