import { greater, slice, sub } from '../../ops/index.ts'
import type { Tensor } from '../../tensor/index.ts'
import type { Sum } from '../../train/task.ts'
import { meanOf } from './task.ts'

/** The first half and the second half of [2 pairs]: chosen and rejected. */
export function halves(x: Tensor): readonly [Tensor, Tensor] {
  const pairs = x.size / 2
  return [slice(x, [0], [pairs]), slice(x, [pairs], [pairs])]
}

/** TRL's metrics of pairs, by their names. */
export function pairMetrics(chosenRewards: Tensor, rejectedRewards: Tensor, chosenLogps: Tensor, rejectedLogps: Tensor): Record<string, Sum> {
  return {
    'rewards/chosen': meanOf(chosenRewards), 'rewards/rejected': meanOf(rejectedRewards),
    'rewards/accuracies': meanOf(greater(chosenRewards, rejectedRewards)), 'rewards/margins': meanOf(sub(chosenRewards, rejectedRewards)),
    'logps/chosen': meanOf(chosenLogps), 'logps/rejected': meanOf(rejectedLogps),
  }
}
