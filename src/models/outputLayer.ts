import { Embedding, Linear, QuantizedLinear, type EmbeddingLayer, type LinearLayer } from '../nn/index.ts'
import { usesHalf } from '../ops/compute.ts'
import type { OutputLayer } from '../ops/index.ts'
import type { Tensor } from '../tensor/index.ts'
import type { ModelConfig } from './config.ts'

/** The output layer of a language model; tied, it has the embeddings' weight. */
export function outputLayer({ hiddenSize, vocabSize, initializerRange, tieWordEmbeddings }: ModelConfig, embeddings: EmbeddingLayer): Linear {
  const head = new Linear(hiddenSize, vocabSize, { deviation: initializerRange })
  if (tieWordEmbeddings && embeddings instanceof Embedding) head.weight = embeddings.weight
  return head
}

/**
 * Hidden states and the output layer as a matrix, for losses that take a part of its logits at a time; undefined where adapters stand around it. A
 * quantised one is widened for the calling scope(): vocabulary × width numbers of the hidden states' dtype, or of bfloat16 where products are.
 */
export function plainHead(head: LinearLayer, hidden: Tensor): OutputLayer | undefined {
  if (head instanceof Linear) return { hidden, weight: head.weight.tensor, bias: head.bias?.tensor ?? null }
  if (head instanceof QuantizedLinear) return { hidden, weight: head.dequantize(usesHalf(hidden.dtype) ? 'bfloat16' : hidden.dtype), bias: head.bias?.tensor ?? null }
  return undefined
}
