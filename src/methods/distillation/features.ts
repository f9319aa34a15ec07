import { ConfigError } from '../../errors.ts'
import { join } from 'node:path'
import { loadTensors, saveTensors } from '../../files/tensorFiles.ts'
import type { BaseOutput, CausalLanguageModel } from '../../models/index.ts'
import { Linear, Module } from '../../nn/index.ts'
import { add, div, equal, mean, mul, reshape, slice, sqrt, square, sub, sum, toDtype } from '../../ops/index.ts'
import type { Tensor } from '../../tensor/index.ts'

export type LayerPair = readonly [student: number, teacher: number]

export interface FeatureOptions {
  hiddenLayers: readonly LayerPair[]
  hiddenWeight: number
  hiddenLoss: 'mse' | 'cosine'
  attentionLayers: readonly LayerPair[]
  attentionWeight: number
}

const projectionsFile = 'projections.safetensors'

/** A student with what maps its hidden states to the teacher's width; both are trained, the student alone is what remains. */
export class StudentWithProjections extends Module {
  readonly student: CausalLanguageModel
  readonly projections: Linear[]

  constructor(student: CausalLanguageModel, teacherWidth: number, count: number, seed: number) {
    super()
    this.student = student
    const width = student.config.hiddenSize
    this.projections = Array.from({ length: count }, () => new Linear(width, teacherWidth, { deviation: 1 / Math.sqrt(width) }))
    this.projections.forEach((projection, i) => { projection.initialise({ seed, dtype: 'float32', device: student.device, prefix: `projections.${i}` }) })
  }

  #tensors(): [string, Tensor][] { return this.projections.map(({ weight }, i) => [`${i}.weight`, weight.tensor]) }

  /** Writes the projections beside the student. */
  save(folder: string): Promise<void> { return saveTensors(join(folder, projectionsFile), this.#tensors()) }

  async load(folder: string): Promise<void> { await loadTensors(join(folder, projectionsFile), this.#tensors(), 'other hiddenLayers') }
}

/** Refuses pairs of layers that one of the models does not have. */
export function checkLayerPairs(name: 'hiddenLayers' | 'attentionLayers', pairs: readonly LayerPair[], student: number, teacher: number): void {
  const last = name === 'hiddenLayers' ? 0 : 1
  for (const pair of pairs) {
    for (const [i, [whose, layers]] of ([['student', student], ['teacher', teacher]] as const).entries()) {
      if (pair[i]! > layers - last) throw new ConfigError(`${name}: expected layers of the ${whose} from 0 to ${layers - last}, got ${pair[i]!} in [${pair.join(', ')}]`)
    }
  }
}

/** 1 for places whose label counts, [tokens]. */
const counted = (labels: Tensor, dtype: Tensor['dtype']): Tensor => sub(1, equal(toDtype(labels, dtype), -100))

/** Distance of two rows of hidden states, [tokens]: the mean of squared differences, or 1 - cosine. */
function distance(a: Tensor, b: Tensor, kind: FeatureOptions['hiddenLoss']): Tensor {
  if (kind === 'mse') return mean(square(sub(a, b)), [-1])
  const norm = (x: Tensor): Tensor => sqrt(add(sum(square(x), [-1]), 1e-12))
  return sub(1, div(sum(mul(a, b), [-1]), mul(norm(a), norm(b))))
}

/** The sum over places that count and pairs of layers of the distances of hidden states. */
function hiddenDistance(student: BaseOutput, teacher: BaseOutput, projections: readonly Linear[], labels: Tensor, { hiddenLayers, hiddenLoss }: FeatureOptions): Tensor {
  return hiddenLayers.map(([own, theirs], i) => {
    const projected = toDtype(projections[i]!.forward(student.hiddenStates![own]!), 'float32')
    return sum(mul(distance(projected, toDtype(teacher.hiddenStates![theirs]!, 'float32').detach(), hiddenLoss), counted(labels, 'float32')))
  }).reduce((a, b) => add(a, b))
}

/** The mean over heads: models may have different numbers of them. */
const overHeads = (x: Tensor): Tensor => toDtype(mean(x, [0]), 'float32')

/** The sum over places that count of the mean squared difference of attention maps: head by head where there are as many, else of their means. */
function attentionDistance(student: BaseOutput, teacher: BaseOutput, cuSeqlens: ArrayLike<number>, labels: Tensor, { attentionLayers }: FeatureOptions): Tensor {
  const all = counted(labels, 'float32')
  return attentionLayers.flatMap(([own, theirs]) => student.attentions![own]!.map((map, sequence) => {
    const other = teacher.attentions![theirs]![sequence]!
    const [queries, keys] = [map.dim(1), map.dim(2)]
    const difference = map.dim(0) === other.dim(0) ? sub(toDtype(map, 'float32'), toDtype(other, 'float32').detach()) : reshape(sub(overHeads(map), overHeads(other).detach()), [1, queries, keys])
    const rows = mean(square(difference), [0, 2])
    return sum(mul(rows, slice(all, [cuSeqlens[sequence]!], [queries])))
  })).reduce((a, b) => add(a, b))
}

/** hiddenWeight and attentionWeight times their distances, averaged over pairs, as a sum over the labels that count; null without pairs. */
export function featureLoss(student: BaseOutput, teacher: BaseOutput, projections: readonly Linear[], cuSeqlens: ArrayLike<number>, labels: Tensor, options: FeatureOptions): Tensor | null {
  const { hiddenLayers, hiddenWeight, attentionLayers, attentionWeight } = options
  const hidden = hiddenLayers.length > 0 ? mul(hiddenDistance(student, teacher, projections, labels, options), hiddenWeight / hiddenLayers.length) : null
  const attention = attentionLayers.length > 0 ? mul(attentionDistance(student, teacher, cuSeqlens, labels, options), attentionWeight / attentionLayers.length) : null
  return hidden && attention ? add(hidden, attention) : hidden ?? attention
}
