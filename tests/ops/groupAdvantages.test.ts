// Proves that the short cut for groups of eight, which a batch takes where every reward is given, computes what the general path does: to the bit.
import { afterAll, describe, expect, test } from 'vitest'
import { groupAdvantages } from '../../src/ops/index.ts'
import { cpu, scope, Tensor } from '../../src/tensor/index.ts'
import { randomNumbers } from '../cases/random.ts'

const groups = 100_000
const best = cpu.isa
afterAll(() => { cpu.isa = best })

/** Groups of small whole numbers, of shares, of large ones, of ones that hardly differ and of ones that do not; then one group more. */
function rewards(last: number): Float64Array {
  const random = randomNumbers('groups of eight')
  const kinds = [() => Math.round(random() * 3), random, () => (random() - 0.5) * 1e6, () => 7 + 1e-3 * random(), () => -0]
  return Float64Array.from({ length: 8 * (groups + 1) }, (_, i) => (i < 8 * groups ? kinds[(i >> 3) % kinds.length]!() : last))
}

const [given, missing] = [rewards(0), rewards(NaN)]

describe.each(cpu.isas)('%s', (isa) => {
  test.each(['group', 'none', 'leave_one_out'] as const)('%s', async (scaling) => {
    cpu.isa = isa
    const compute = async (values: Float64Array): Promise<BigUint64Array> => {
      const { advantages } = scope(() => {
        const weights = Tensor.from([0.7], [1], { dtype: 'float64', device: cpu })
        return { advantages: groupAdvantages(Tensor.from(values, [values.length, 1], { device: cpu }), { groupSize: 8, scaling, weights }).advantages }
      })
      const result = await advantages.data() as Float64Array
      advantages.dispose()
      return new BigUint64Array(result.buffer, result.byteOffset, result.length)
    }
    const [short, general] = [await compute(given), await compute(missing)]
    expect(short.findIndex((bits, i) => bits !== general[i])).toBe(-1)
  })
})
