// Every case that `npm run bench` times: the large ones of the fused operations, and kernels that are no fused operations.
import type { OpCase } from '../case.ts'
import { fusedCases } from '../index.ts'
import { timedPrimitives } from './primitives.ts'
import { timedProducts } from './products.ts'
import { timedTraining } from './training.ts'

export const timedCases: readonly OpCase[] = [...fusedCases.filter(({ benchOnly }) => benchOnly), ...timedProducts, ...timedPrimitives, ...timedTraining]
/** The small cases of the tests. */
export const smallCases: readonly OpCase[] = fusedCases.filter(({ benchOnly }) => !benchOnly)
