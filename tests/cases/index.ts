// Every case of every fused operation.
import type { OpCase } from './case.ts'
import { elementwiseCases } from './elementwise.ts'
import { productCases } from './products.ts'

export const fusedCases: readonly OpCase[] = [...elementwiseCases, ...productCases]
