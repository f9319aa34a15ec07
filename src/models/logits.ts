import { usesHalf } from '../ops/compute.ts'
import { toDtype } from '../ops/index.ts'
import { linearForward } from '../ops/linear.ts'
import { quantizedForward } from '../ops/quantizedMatmul.ts'
import { Linear, QuantizedLinear, type LinearLayer } from '../nn/index.ts'
import { isRecording } from '../tensor/autograd.ts'
import { bytesOf, Tensor } from '../tensor/index.ts'

/** Logits [rows, outputs] of hidden states [rows, hiddenSize] under an output layer; float32 where the model has 16 bits. */
export function logitsOf(head: LinearLayer, hidden: Tensor): Tensor {
  if (bytesOf(hidden.dtype) !== 2) return head.forward(hidden)
  const isQuantized = head instanceof QuantizedLinear && head.weight.multiplies
  if (!(head instanceof Linear || isQuantized)) return toDtype(head.forward(hidden), 'float32')
  if (isRecording() && (hidden.requiresGrad || (head instanceof Linear && head.weight.requiresGrad))) return head.forward(toDtype(hidden, 'float32'))
  // The product is summed in float32 anyway; rounding it to 16 bits would only lose what sampling and log-probabilities need.
  if (!(head instanceof Linear)) return quantizedForward(hidden, head.weight, head.bias?.tensor ?? null, usesHalf(hidden.dtype), 'float32')
  const weight = head.weight.tensor
  const logits = Tensor.empty([hidden.dim(0), head.outFeatures], { device: hidden.device })
  linearForward(logits, null, hidden, weight, head.bias?.tensor ?? null, { activation: 'none', transposedWeight: false, half: usesHalf(hidden.dtype, weight.dtype) })
  return logits
}
