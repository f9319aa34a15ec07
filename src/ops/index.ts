export { activation, gatedActivation, gelu, geluTanh, relu, silu, swiglu } from './activation.ts'
export { attention, attentionProbabilities, Spans } from './attention.ts'
export type { AttentionOptions, Span } from './attention.ts'
export { dropout } from './dropout.ts'
export { embedding } from './embedding.ts'
export { linear } from './linear.ts'
export type { LinearOptions } from './linear.ts'
export { crossEntropy, ignoreIndex, linearCrossEntropy, linearLogprob, selectiveLogSoftmax } from './loss.ts'
export type { LinearCrossEntropyOptions, LinearCrossEntropyResult, LogprobResult } from './loss.ts'
export { addLayerNorm, addRmsNorm, layerNorm, rmsNorm } from './norm.ts'
export type { Activation } from './operations.ts'
export {
  abs, add, broadcastTo, concat, cos, div, equal, erf, exp, gather, greater, log, matmul, max, maximum, mean, minimum, mul, neg, permute, pow, reciprocal, reshape,
  rsqrt, sigmoid, sin, slice, split, sqrt, square, sub, sum, tanh, toDtype, transpose, where,
} from './primitives.ts'
export { rope } from './rope.ts'
export type { RopeOptions } from './rope.ts'
export { softmax } from './softmax.ts'
