// Proves that modules name, tie, freeze, replace, initialise and convert their parameters.
import { afterEach, describe, expect, test } from 'vitest'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import { Conv1D, Embedding, LayerNorm, Linear, LinearLayer, matchesName, Module, RMSNorm } from '../../src/nn/index.ts'

class Block extends Module {
  norm = new RMSNorm(8, 1e-6)
  up_proj: LinearLayer = new Linear(8, 12, { bias: true, deviation: 0.5 })
}

class Model extends Module {
  readonly note = 'not a parameter'
  readonly sizes = [1, 2]
  embed = new Embedding(10, 8, { deviation: 1, paddingIdx: 3 })
  layers = [new Block(), new Block()]
  conv = new Conv1D(8, 4)
  final = new LayerNorm(8, 1e-5)
  head = new Linear(8, 10)
  constructor() {
    super()
    this.head.weight = this.embed.weight
  }
}

const live: Module[] = []
const make = (seed = 7, dtype: 'float32' | 'bfloat16' = 'float32') => {
  const model = new Model()
  live.push(model)
  model.initialise({ seed, dtype, device: cpu })
  return model
}
afterEach(() => { for (const model of live.splice(0)) model.dispose() })

describe('names', () => {
  test('are property paths, tied parameters once', () => {
    expect([...new Model().namedParameters()].map(([name]) => name)).toEqual([
      'embed.weight', 'layers.0.norm.weight', 'layers.0.up_proj.weight', 'layers.0.up_proj.bias', 'layers.1.norm.weight', 'layers.1.up_proj.weight',
      'layers.1.up_proj.bias', 'conv.weight', 'conv.bias', 'final.weight', 'final.bias',
    ])
    expect([...new Model().everyName()].map(([name]) => name)).toContain('head.weight')
    expect([...new Model().namedModules()].map(([name]) => name)).toEqual(['', 'embed', 'layers.0', 'layers.0.norm', 'layers.0.up_proj', 'layers.1', 'layers.1.norm', 'layers.1.up_proj', 'conv', 'final', 'head'])
  })

  test('an unknown one gets a suggestion', () => {
    expect(() => new Model().getParameter('layers.0.up_prj.bias')).toThrow('did you mean "layers.0.up_proj.bias"?')
    expect(() => new Model().getModule('layers.7')).toThrow('no module "layers.7"')
  })

  test('numParameters counts tied ones once', () => {
    expect(new Model().numParameters()).toBe(80 + 2 * (8 + 96 + 12) + 32 + 4 + 16)
  })

  test.each([
    ['layers.0', 'layers.0.norm.weight', true], ['layers.0', 'layers.01.norm.weight', false], ['layers.*.norm', 'layers.1.norm.weight', true],
    ['*.bias', 'layers.1.up_proj.bias', true], ['*.bias', 'layers.1.up_proj.weight', false], [/\.(norm|final)/g, 'layers.1.norm.weight', true],
  ] as const)('%s and %s', (pattern, name, matches) => { expect(matchesName(pattern, name)).toBe(matches) })
})

describe('initial values', () => {
  test('depend on seed and name, not on the rest of the model', async () => {
    const a = make()
    const b = make()
    const c = make(8)
    expect(await a.embed.weight.tensor.data()).toEqual(await b.embed.weight.tensor.data())
    expect(await a.embed.weight.tensor.data()).not.toEqual(await c.embed.weight.tensor.data())
    expect(await a.layers[0]!.getParameter('up_proj.weight').tensor.data()).not.toEqual(await a.layers[1]!.getParameter('up_proj.weight').tensor.data())
  })

  test('are normal, with zero biases and padding row, and norms of one', async () => {
    const model = make()
    const weights = await new Map(model.namedParameters()).get('layers.0.up_proj.weight')!.tensor.toArray()
    const deviation = Math.sqrt(weights.reduce((sum, w) => sum + w * w, 0) / weights.length)
    expect(deviation).toBeGreaterThan(0.4)
    expect(deviation).toBeLessThan(0.6)
    expect(await model.getParameter('layers.0.up_proj.bias').tensor.toArray()).toEqual(Array(12).fill(0))
    expect(await model.final.weight.tensor.toArray()).toEqual(Array(8).fill(1))
    const rows = await model.embed.weight.tensor.toArray()
    expect(rows.slice(24, 32)).toEqual(Array(8).fill(0))
    expect(rows.slice(16, 24)).not.toContain(0)
  })

  test('in bfloat16 are the rounded float32 ones', async () => {
    const wide = make()
    const narrow = make(7, 'bfloat16')
    expect(narrow.embed.weight.dtype).toBe('bfloat16')
    wide.to('bfloat16')
    expect(await narrow.embed.weight.tensor.data()).toEqual(await wide.embed.weight.tensor.data())
  })
})

describe('gradients', () => {
  test('are switched by pattern', () => {
    const model = make()
    expect(model.requiresGrad_(false)).toBe(11)
    expect(model.requiresGrad_(true, 'layers.1')).toBe(3)
    expect([...model.namedParameters()].filter(([, p]) => p.tensor.requiresGrad).map(([name]) => name)).toEqual(['layers.1.norm.weight', 'layers.1.up_proj.weight', 'layers.1.up_proj.bias'])
    expect(model.numParameters({ onlyTrainable: true })).toBe(116)
    expect(() => model.requiresGrad_(true, 'layer.1')).toThrow(/no parameter matches layer\.1.*names look like "embed\.weight"/)
  })

  test('a frozen tied parameter is frozen under both names', () => {
    const model = make()
    model.requiresGrad_(false, 'head')
    expect(model.embed.weight.requiresGrad).toBe(false)
  })
})

describe('modules', () => {
  class Doubled extends LinearLayer {
    readonly inFeatures = 8
    readonly outFeatures = 12
    base_layer: LinearLayer
    constructor(base: LinearLayer) {
      super()
      this.base_layer = base
    }
    forward(x: Tensor): Tensor { return this.base_layer.forward(x) }
  }

  test('can be replaced by name', () => {
    const model = make().train()
    const old = model.layers[1]!.up_proj
    expect(model.replaceModule('layers.1.up_proj', new Doubled(old))).toBe(old)
    expect([...model.namedParameters()].map(([name]) => name)).toContain('layers.1.up_proj.base_layer.weight')
    expect(model.layers[1]!.up_proj.training).toBe(true)
    const block = new Block()
    model.replaceModule('layers.0', block)
    expect(model.layers[0]).toBe(block)
  })

  test('train() and eval() reach all', () => {
    const model = make()
    expect(model.layers[0]!.norm.training).toBe(false)
    model.train()
    expect([...model.namedModules()].every(([, module]) => module.training)).toBe(true)
    model.eval()
    expect([...model.namedModules()].some(([, module]) => module.training)).toBe(false)
  })

  test('give and take their state', async () => {
    const from = make(1)
    const to = make(2)
    to.loadStateDict(from.stateDict())
    expect(await to.conv.weight.tensor.data()).toEqual(await from.conv.weight.tensor.data())
    const state = from.stateDict()
    state.delete('conv.bias')
    expect(() => { to.loadStateDict(state) }).toThrow('the state has no tensor "conv.bias"')
    const wrong = new Map(from.stateDict()).set('conv.bias', Tensor.zeros([3]))
    expect(() => { to.loadStateDict(wrong) }).toThrow('conv.bias: expected shape [4], got [3]')
    expect(() => { to.loadStateDict(new Map(from.stateDict()).set('conv.bais', Tensor.zeros([4]))) }).toThrow('did you mean "conv.bias"?')
  })

  test('have no values before initialise() and after dispose()', () => {
    expect(() => new Model().embed.weight.tensor).toThrow(/shape \[10, 8\] has no values/)
    const model = make()
    model.dispose()
    expect(() => model.embed.weight.tensor).toThrow(/has no values/)
  })

  test('a parameter refuses a tensor of another shape', () => {
    expect(() => { make().embed.weight.replace(Tensor.zeros([10, 7])) }).toThrow('a parameter of shape [10, 8] cannot take a tensor of shape [10, 7]')
  })
})
