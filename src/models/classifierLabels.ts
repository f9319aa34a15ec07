import { ConfigError } from '../errors.ts'
import type { JsonValue } from '../files/index.ts'
import type { AnyModelConfig, RawConfig } from './config.ts'

/** One answer a sequence, or one a token. */
export type ClassifierKind = 'sequence' | 'token'

/** What the labels of a sequence classifier are: numbers, one class of several, or any of several. */
export const problemTypes = ['regression', 'single_label_classification', 'multi_label_classification'] as const
/** What a classifier's labels are, which decides its loss; transformers' problem_type. */
export type ProblemType = (typeof problemTypes)[number]

export const architecturePart = { sequence: 'ForSequenceClassification', token: 'ForTokenClassification' } as const

export const isClassifier = (name: unknown): name is string => typeof name === 'string' && /For(?:Sequence|Token)Classification$/.test(name)

export interface LabelOptions {
  /** Outputs of a new head, whose names are `id2label`'s. Default 1 for sequences, as a reward model has, and 2 for tokens. */
  numLabels?: number
  id2label?: readonly string[]
}

const numbered = (count: number): string[] => Array.from({ length: count }, (_, i) => `LABEL_${i}`)

export function newLabels({ numLabels, id2label }: LabelOptions, kind: ClassifierKind): readonly string[] {
  const count = numLabels ?? id2label?.length ?? (kind === 'sequence' ? 1 : 2)
  if (!Number.isInteger(count) || count < 1) throw new ConfigError(`numLabels: expected a whole number from 1, got ${count}`)
  if (id2label && id2label.length !== count) throw new ConfigError(`id2label: expected ${count} names, as numLabels says, got ${id2label.length}`)
  return id2label ?? numbered(count)
}

/** The labels of a saved classifier; config.json leaves them out where they are transformers' own two. */
export function storedLabels({ id2label, num_labels: count }: RawConfig, path: string): readonly string[] {
  if (id2label === undefined || id2label === null) return numbered(typeof count === 'number' ? count : 2)
  const table = id2label as { readonly [key: string]: JsonValue }
  const labels = typeof table === 'object' && !Array.isArray(table) ? Object.keys(table).map((_, i) => table[i]) : []
  if (labels.length === 0 || labels.some((label) => typeof label !== 'string')) throw new ConfigError(`${path}: id2label: expected names by the numbers "0", "1", …, got ${JSON.stringify(id2label)}`)
  return labels as string[]
}

/** problem_type of config.json, where it has one. */
export function storedProblemType({ problem_type: type }: RawConfig, path: string): ProblemType | undefined {
  if (type === undefined || type === null) return undefined
  return problemTypes.find((known) => known === type) ?? (() => { throw new ConfigError(`${path}: problem_type: expected ${problemTypes.join(', ')}, got ${JSON.stringify(type)}`) })()
}

/** The config of a classifier on a model: its class, its labels and what they are. */
export function classifierConfig<C extends AnyModelConfig>(config: C, kind: ClassifierKind, labels: readonly string[], problemType: ProblemType | undefined): C {
  // Of Gemma 3 the name without Text is the class with a vision tower.
  const architecture = config.architecture.replace(/ForCausalLM$|LMHeadModel$|ForMaskedLM$/, architecturePart[kind]).replace(/^Gemma3For/, 'Gemma3TextFor')
  const raw: RawConfig = {
    ...config.raw, id2label: Object.fromEntries(labels.map((label, i) => [String(i), label])), label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
    ...(problemType === undefined ? {} : { problem_type: problemType }),
  }
  return { ...config, architecture, raw }
}

export const withoutArchitectures = ({ architectures: _, ...rest }: RawConfig): RawConfig => rest
