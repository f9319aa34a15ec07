// Every case of every fused operation.
import { adapterCases } from './adapters.ts'
import type { OpCase } from './case.ts'
import { divergenceCases } from './divergence.ts'
import { elementwiseCases } from './elementwise.ts'
import { policyCases } from './policy.ts'
import { productCases } from './products.ts'
import { topKCases } from './topK.ts'

export const fusedCases: readonly OpCase[] = [...elementwiseCases, ...productCases, ...adapterCases, ...policyCases, ...divergenceCases, ...topKCases]
