import { ShapeError } from '../errors.ts'
import { abs, add, crossEntropy, exp, log, mul, neg, square, sub, sum } from '../ops/index.ts'
import { Tensor } from '../tensor/index.ts'
import type { ProblemType } from './classifierLabels.ts'

/** A class's number for each sequence; or for several labels, or numbers, one row a sequence. */
export type ClassificationLabels = readonly number[] | readonly (readonly number[])[]

/**
 * The loss of a sequence classifier as transformers has it, []: a sum over sequences divided by `numItems`, the number of sequences by default. Cross-entropy
 * for one class of several; for any of several labels the mean over them of the binary cross-entropy; for numbers the mean over them of the squared error.
 */
export function classificationLoss(logits: Tensor, labels: ClassificationLabels, problemType: ProblemType, numItems = logits.dim(0)): Tensor {
  const [rows, count] = logits.shape as [number, number]
  if (labels.length !== rows) throw new ShapeError(`labels: expected ${rows}, one for each sequence, got ${labels.length}`)
  const { device } = logits
  if (problemType === 'single_label_classification') {
    const classes = labels.map((label, i) => {
      if (typeof label === 'number' && Number.isInteger(label) && label >= 0 && label < count) return label
      throw new ShapeError(`labels[${i}]: expected a class from 0 to ${count - 1}, got ${JSON.stringify(label)}`)
    })
    return mul(sum(crossEntropy(logits, Tensor.from(Int32Array.from(classes), [rows], { device }))), 1 / numItems)
  }
  const wanted = labels.map((label, i) => {
    const row = typeof label === 'number' ? [label] : label
    if (row.length !== count || !row.every(Number.isFinite)) throw new ShapeError(`labels[${i}]: expected ${count} number${count === 1 ? '' : 's'}, got ${JSON.stringify(label)}`)
    return row
  })
  const target = Tensor.from(wanted.flat(), [rows, count], { dtype: logits.dtype, device })
  const each = problemType === 'regression'
    ? square(sub(logits, target))
    // -y log σ(x) - (1 - y) log σ(-x), which does not overflow; max(x, 0) is written so that its gradient at 0 is 1/2.
    : add(sub(mul(add(logits, abs(logits)), 0.5), mul(logits, target)), log(add(exp(neg(abs(logits))), 1)))
  return mul(sum(each), 1 / (numItems * count))
}
