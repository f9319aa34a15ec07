// A tiny transformer with its optimizer step, for tests of memory and lifetime.
import { add, addRmsNorm, attention, dropout, embedding, linear, linearCrossEntropy, reshape, rmsNorm, slice, Spans } from '../../src/ops/index.ts'
import { backward, checkpoint, cpu, manualSeed, scope, Tensor, unscoped } from '../../src/tensor/index.ts'
import { randomNumbers } from '../cases/random.ts'

const [vocabulary, width, heads, tokens] = [50, 16, 2, 12]

export class TinyModel {
  readonly parameters: Tensor[]
  readonly #state: Tensor[]
  #step = 0

  constructor() {
    const random = randomNumbers('tiny')
    const make = (...shape: number[]): Tensor =>
      Tensor.from(Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 0.4 * random() - 0.2), shape).requiresGrad_()
    this.parameters = unscoped(() => [make(vocabulary, width), make(width), make(3 * width, width), make(width, width), make(width), make(4 * width, width), make(width, 4 * width)])
    this.#state = unscoped(() => this.parameters.flatMap(({ shape }) => [Tensor.zeros(shape), Tensor.zeros(shape)]))
  }

  /** The loss of fixed tokens. */
  loss({ dropoutRate = 0.1, checkpointed = false }: { dropoutRate?: number; checkpointed?: boolean } = {}): Tensor {
    const [table, norm, qkv, out, norm2, up, down] = this.parameters as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
    return scope(() => {
      const id = Tensor.from(Int32Array.from({ length: tokens }, (_, i) => i * 7 % vocabulary))
      const block = (x: Tensor): Tensor => {
        const spans = Spans.packed([0, 7, tokens])
        const h = linear(rmsNorm(x, norm), qkv)
        const part = (i: number): Tensor => reshape(sliceColumns(h, i * width, width), [tokens, heads, width / heads])
        const mixed = linear(reshape(attention(part(0), part(1), part(2), spans), [tokens, width]), out)
        const [normed, total] = addRmsNorm(dropout(mixed, dropoutRate), x, norm2)
        return add(total, dropout(linear(linear(normed, up, null, { activation: 'gelu' }), down), dropoutRate))
      }
      const x = embedding(table, id)
      const hidden = checkpointed ? checkpoint(block, x) : block(x)
      return linearCrossEntropy(hidden, table, Tensor.from(Int32Array.from({ length: tokens }, (_, i) => (i + 1) * 7 % vocabulary)), { numItems: tokens }).loss
    })
  }

  zeroGrad(): void {
    for (const parameter of this.parameters) {
      parameter.grad?.dispose()
      parameter.grad = null
    }
  }

  /** One step of training; the loss before it. */
  step(options: { dropoutRate?: number; checkpointed?: boolean } = {}): Promise<number> {
    const pending: Promise<number>[] = []
    scope(() => {
      const loss = this.loss(options)
      const item = loss.item()
      item.catch(() => undefined)
      pending.push(item)
      backward(loss)
      this.#step++
      this.parameters.forEach((parameter, i) => {
        cpu.kernels.adamw([parameter.handle], [this.#state[2 * i]!.handle], [this.#state[2 * i + 1]!.handle], [], [parameter.grad!.handle], 0, [1e-3], 0.9, 0.99, 1e-8, [0.01], this.#step)
      })
      this.zeroGrad()
    })
    return pending[0]!
  }

  dispose(): void {
    for (const tensor of [...this.parameters, ...this.#state]) tensor.dispose()
  }
}

const sliceColumns = (x: Tensor, start: number, length: number): Tensor => slice(x, [0, start], [x.dim(0), length])

/** The losses of some steps of a fresh model. */
export async function train(steps: number, options: { dropoutRate?: number; checkpointed?: boolean } = {}): Promise<number[]> {
  manualSeed(3)
  const model = new TinyModel()
  const losses: number[] = []
  for (let i = 0; i < steps; i++) losses.push(await model.step(options))
  model.dispose()
  return losses
}
