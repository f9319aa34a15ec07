import { ConfigError } from '../errors.ts'
import { Embedding, Linear, Parameter, QuantizedEmbedding, QuantizedLinear } from '../nn/index.ts'
import { broadcastTo, mean, toDtype } from '../ops/index.ts'
import { noGrad, scope, Tensor, unscoped } from '../tensor/index.ts'
import type { CausalLanguageModel } from './causal.ts'

/** A parameter with `count` rows: those of `old`, then their mean. */
function resized(old: Parameter, count: number): Parameter {
  const shape = [count, ...old.shape.slice(1)]
  const kept = Math.min(count, old.shape[0]!)
  const width = old.size / old.shape[0]!
  const tensor = unscoped(() => noGrad(() => scope(() => {
    const tensor = Tensor.empty(shape, { dtype: old.dtype, device: old.device })
    const { kernels } = old.device
    const rows = (of: Tensor, first: number, length: number) => of.viewAs([length, width], first * width)
    kernels.convert(rows(tensor, 0, kept).handle, rows(old.tensor, 0, kept).handle)
    if (count === kept) return tensor
    const average = mean(toDtype(rows(old.tensor, 0, kept), 'float32'), [0], true)
    kernels.convert(rows(tensor, kept, count - kept).handle, broadcastTo(average, [count - kept, width]).handle)
    return tensor
  })))
  const parameter = new Parameter(shape, old.initialisation)
  parameter.requiresGrad = old.requiresGrad
  parameter.replace(tensor)
  return parameter
}

/** Gives the embeddings and the head `count` rows; tied ones stay tied. */
export function resizeTokenEmbeddings(model: CausalLanguageModel, count: number): void {
  if (!Number.isSafeInteger(count) || count < 1) throw new ConfigError(`resizeTokenEmbeddings: expected a whole number of 1 or more, got ${count}`)
  const embeddings = model.getInputEmbeddings()
  const head = model.lm_head
  if (head instanceof QuantizedLinear || embeddings instanceof QuantizedEmbedding) throw new ConfigError('resizeTokenEmbeddings: the head is quantised; call dequantizeModel() first, or resize the model before it is quantised')
  if (!(embeddings instanceof Embedding)) throw new ConfigError('resizeTokenEmbeddings: the embeddings are no plain table; resize before adapters are added')
  if (!(head instanceof Linear)) throw new ConfigError('resizeTokenEmbeddings: lm_head is no plain linear layer; resize before adapters are added')
  if (count === model.config.vocabSize) return
  const replaced = new Map<Parameter, Parameter>()
  for (const old of new Set([embeddings.weight, head.weight, ...(head.bias ? [head.bias] : [])])) replaced.set(old, resized(old, count))
  embeddings.weight = replaced.get(embeddings.weight)!
  head.weight = replaced.get(head.weight)!
  if (head.bias) head.bias = replaced.get(head.bias)!
  for (const old of replaced.keys()) old.dispose()
  model.config = { ...model.config, vocabSize: count }
}
