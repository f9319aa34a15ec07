import { add, Spans, withPlans } from '../ops/index.ts'
import { checkpoint, scope, type Tensor } from '../tensor/index.ts'
import type { LayerContext } from './attention.ts'

/**
 * The residual stream between layers, as two summands: the next norm adds them in its own pass. The third is the layer's input, summed.
 */
export type LayerOutput = readonly [branch: Tensor, residual: Tensor, input: Tensor]

export interface ResidualLayer {
  /** The layer's input is branch + residual, its output the sum of the first two results; [tokens, hiddenSize] each. */
  forward(branch: Tensor, residual: Tensor | null, context: LayerContext): LayerOutput
}

/** A norm that can add the residual first. */
interface SummingNorm {
  forward(x: Tensor): Tensor
  forwardSum(x: Tensor, residual: Tensor): readonly [Tensor, Tensor]
}

/** x + attention(norm(x)), then x + mlp(norm(x)). What only one half needs is released at its end. */
export function preNormLayer(
  branch: Tensor, residual: Tensor | null,
  parts: { before: SummingNorm, attend: (x: Tensor) => Tensor, between: SummingNorm, mlp: (x: Tensor) => Tensor },
): LayerOutput {
  return scope(() => {
    const [normed, input] = residual ? parts.before.forwardSum(branch, residual) : [parts.before.forward(branch), branch] as const
    const attended = scope(() => parts.attend(normed))
    const [normedAgain, sum] = parts.between.forwardSum(attended, input)
    return [scope(() => parts.mlp(normedAgain)), sum, input]
  })
}

export interface RunOptions {
  /** Whether to forget what is inside a layer and compute it again in backward(). */
  recompute: boolean
  /** Receives the input of each layer, and the result. */
  hiddenStates: Tensor[] | undefined
}

/** All layers in turn, then the last norm. */
export function runLayers(layers: readonly ResidualLayer[], norm: SummingNorm, embedded: Tensor, context: LayerContext, { recompute, hiddenStates }: RunOptions): Tensor {
  let branch = embedded
  let residual: Tensor | null = null
  for (const [i, layer] of layers.entries()) {
    if (recompute) {
      hiddenStates?.push(branch)
      branch = recomputed(layer, i, branch, context)
      continue
    }
    const [next, nextResidual, input]: LayerOutput = layer.forward(branch, residual, context)
    hiddenStates?.push(input)
    branch = next
    residual = nextResidual
  }
  const hidden = residual ? norm.forwardSum(branch, residual)[0] : norm.forward(branch)
  hiddenStates?.push(hidden)
  return hidden
}

/** The layer's result, whose inside is computed again in backward(). What the layer reads is handed over, as it must live until then. */
function recomputed(layer: ResidualLayer, number: number, input: Tensor, context: LayerContext): Tensor {
  const { spans, rope, localRope, virtual } = context
  const rotations = [rope, localRope]
  const tables = rotations.flatMap((one) => (one ? [one.cos, one.sin, one.row] : []))
  // Prefixes are inputs, not parameters of the layer: they may come from a projection, whose gradient goes on outside.
  const prefix = virtual?.kind === 'keysAndValues' ? [...virtual.at(number), virtual.places.rows] : []
  return checkpoint((x, ...others) => {
    const [ownRope, ownLocalRope] = rotations.map((one) => {
      if (!one) return undefined
      const [cos, sin, row] = others.splice(0, 3)
      return { cos: cos!, sin: sin!, row: row! }
    })
    const [key, value, rows] = others
    const own: Omit<LayerContext, 'plans'> = {
      ...context, spans: new Spans(spans.spans, x.device), rope: ownRope, localRope: ownLocalRope,
      virtual: key && value && rows ? { kind: 'keysAndValues', places: { rows, kept: undefined, slots: undefined }, at: () => [key, value] } : undefined,
    }
    return withPlans(own.spans, (plans) => {
      const [branch, residual] = layer.forward(x, null, { ...own, plans })
      return add(branch, residual)
    })
  }, input, ...tables, ...prefix)
}
