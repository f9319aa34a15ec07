// Proves that the sampling kernel keeps the tokens transformers' processors keep, draws them in their proportions, and treats every row on its own.
import { afterAll, describe, expect, test } from 'vitest'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import type { DType } from '../../src/tensor/index.ts'
import { roundToBfloat16 } from '../cases/case.ts'
import { randomNumbers } from '../cases/random.ts'
import { chiSquareLimit } from './philox.ts'

const [threads, isa] = [cpu.threads, cpu.isa]
afterAll(() => {
  cpu.threads = threads
  cpu.isa = isa
})

interface Options { temperature?: number; topK?: number; topP?: number; minP?: number; penalty?: number }

async function sample(rows: readonly ArrayLike<number>[], options: readonly Options[], { history, seeds, dtype = 'float32' }: { history?: readonly number[][]; seeds: readonly (readonly [number, number])[]; dtype?: DType }) {
  const count = rows.length
  const made = {
    token: Tensor.empty([count], { dtype: 'int32' }), logprob: Tensor.empty([count]),
    logits: Tensor.from(rows.flatMap((row) => Array.from(row)), [count, rows[0]!.length], { dtype }),
    options: Tensor.from(options.flatMap(({ temperature = 1, topK = 0, topP = 1, minP = 0, penalty = 1 }) => [temperature, topK, topP, minP, penalty]), [count, 5]),
    history: history ? Tensor.from(Int32Array.from(history.flat()), [count, history[0]!.length]) : null,
    draw: Tensor.from(Int32Array.from(seeds.flat()), [count, 2]),
  }
  cpu.kernels.sample(made.token.handle, made.logprob.handle, made.logits.handle, made.options.handle, made.history?.handle ?? 0, made.draw.handle)
  const pending = [made.token.data(), made.logprob.data()] as const
  for (const tensor of Object.values(made)) tensor?.dispose()
  const [token, logprob] = await Promise.all(pending)
  return { token: Array.from(token, Number), logprob: Array.from(logprob, Number) }
}

/** Processors of transformers 5.18, in their order; the probability of each token, 0 where it is removed. */
function probabilities(logits: readonly number[], { temperature = 1, topK = 0, topP = 1, minP = 0, penalty = 1 }: Options, history: readonly number[] = []): number[] {
  const seen = new Set(history)
  let scores = logits.map((x, token) => seen.has(token) ? x < 0 ? x * penalty : x / penalty : x)
  scores = scores.map((x) => x / temperature)
  const remove = (keep: (token: number) => boolean): void => { scores = scores.map((x, token) => keep(token) ? x : -Infinity) }
  const softmax = (): number[] => {
    const top = Math.max(...scores)
    const weights = scores.map((x) => Math.exp(x - top))
    const total = weights.reduce((a, b) => a + b, 0)
    return weights.map((weight) => weight / total)
  }
  if (topK > 0) {
    const least = [...scores].sort((a, b) => b - a)[Math.min(topK, scores.length) - 1]!
    remove((token) => scores[token]! >= least)
  }
  if (topP < 1) {
    const p = softmax()
    const ascending = p.map((_, token) => token).sort((a, b) => p[a]! - p[b]!)
    let cumulative = 0
    const removed = new Set(ascending.slice(0, -1).filter((token) => (cumulative += p[token]!) <= 1 - topP))
    remove((token) => !removed.has(token))
  }
  if (minP > 0) {
    const p = softmax()
    const least = minP * Math.max(...p)
    remove((token) => p[token]! >= least)
  }
  return softmax()
}

const logitsOf = (vocabulary: number, seed: string): number[] => {
  const random = randomNumbers(seed)
  return Array.from({ length: vocabulary }, () => roundToBfloat16(6 * random() - 3 + 1e-3 * random()))
}

const filters: [string, Options][] = [
  ['nothing', {}], ['temperature', { temperature: 0.6 }], ['hot', { temperature: 2 }], ['top-k 1', { topK: 1 }], ['top-k 5', { topK: 5 }], ['top-k beyond the vocabulary', { topK: 5000 }],
  ['top-p 0.9', { topP: 0.9 }], ['top-p 0.5', { topP: 0.5 }], ['tiny top-p', { topP: 1e-6 }], ['min-p 0.2', { minP: 0.2 }], ['penalty 1.3', { penalty: 1.3 }], ['penalty 0.7', { penalty: 0.7 }],
  ['all', { temperature: 0.8, topK: 12, topP: 0.9, minP: 0.05, penalty: 1.2 }],
]

describe.each(cpu.isas)('%s', (name) => {
  describe.each(['float32', 'bfloat16'] as const)('%s', (dtype) => {
    test.each(filters)('%s: only kept tokens are drawn, in their proportions', async (_, options) => {
      cpu.isa = name
      const [vocabulary, rows] = [37, 8000]
      const logits = logitsOf(vocabulary, 'logits')
      const history = [3, 7, 7, 20, -1, -1]
      const expected = probabilities(logits, options, history)
      const { token, logprob } = await sample(Array.from({ length: rows }, () => logits), Array.from({ length: rows }, () => options), {
        dtype, history: Array.from({ length: rows }, () => history), seeds: Array.from({ length: rows }, (_, i) => [17, i] as const),
      })
      const counts = new Float64Array(vocabulary)
      for (const drawn of token) counts[drawn]!++
      expected.forEach((p, drawn) => { if (p === 0) expect(counts[drawn], `token ${drawn}`).toBe(0) })
      // Rare tokens are counted together, as the approximation needs.
      const common = expected.map((p, drawn) => [p * rows, counts[drawn]!] as const).filter(([mean]) => mean >= 8)
      const rest = expected.reduce((total, p) => p * rows < 8 ? total + p * rows : total, 0)
      const bins = rest >= 8 ? [...common, [rest, rows - common.reduce((total, [, count]) => total + count, 0)] as const] : common
      const statistic = bins.reduce((total, [mean, count]) => total + (count - mean) ** 2 / mean, 0)
      if (bins.length > 1) expect(statistic).toBeLessThan(chiSquareLimit(bins.length - 1))
      const unfiltered = probabilities(logits, {}).map(Math.log)
      token.forEach((drawn, row) => { expect(Math.abs(logprob[row]! - unfiltered[drawn]!)).toBeLessThan(1e-5) })
    })
  })

  test('temperature 0 takes the largest logit after the penalty, the first of equal ones', async () => {
    cpu.isa = name
    const rows = [[1, 3, 3, -1], [1, 3, 2.9, -1], [-5, -1, -1.2, -4], [0, 0, 0, 0]]
    const { token } = await sample(rows, [{}, { penalty: 1.1 }, { penalty: 1.5 }, {}].map((options) => ({ ...options, temperature: 0 })), {
      history: [[0], [1], [1], [0]], seeds: rows.map(() => [1, 2] as const),
    })
    expect(token).toEqual([1, 2, 2, 0])
  })

  test('a row draws the same token alone, in a batch, and on any number of threads', async () => {
    cpu.isa = name
    const [rows, vocabulary] = [19, 5003]
    const logits = Array.from({ length: rows }, (_, row) => logitsOf(vocabulary, `row ${row}`))
    const options = Array.from({ length: rows }, (_, row): Options => filters[row % filters.length]![1])
    const history = Array.from({ length: rows }, (_, row) => [row, 2 * row, -1])
    const seeds = Array.from({ length: rows }, (_, row) => [row % 3, 100 + row] as const)
    cpu.threads = 1
    const together = await sample(logits, options, { history, seeds })
    for (const count of [2, 3]) {
      cpu.threads = count
      expect(await sample(logits, options, { history, seeds })).toEqual(together)
    }
    for (let row = 0; row < rows; row++) {
      const alone = await sample([logits[row]!], [options[row]!], { history: [history[row]!], seeds: [seeds[row]!] })
      expect(alone).toEqual({ token: [together.token[row]], logprob: [together.logprob[row]] })
    }
  })

  test('the same seed and position draw the same token, others differ', async () => {
    cpu.isa = name
    const logits = logitsOf(1009, 'flat').map((x) => x / 10)
    const draw = async (seed: number, position: number): Promise<number> => (await sample([logits], [{}], { seeds: [[seed, position]] })).token[0]!
    const [first, again, other, next] = [await draw(5, 9), await draw(5, 9), await draw(6, 9), await draw(5, 10)]
    expect(again).toBe(first)
    expect(new Set([first, other, next]).size).toBeGreaterThan(1)
  })
})

test.each([
  ['NaN', [[0, NaN, 1]], /the logits of row 0 hold NaN or infinity/], ['infinity', [[0, Infinity, 1]], /the logits of row 0 hold NaN or infinity/],
  ['nothing', [[-Infinity, -Infinity, -Infinity]], /nothing above -infinity/],
])('logits of %s are refused', async (_, rows, message) => {
  await expect(sample(rows, [{}], { seeds: [[0, 0]] })).rejects.toThrow(message)
  await cpu.fence().catch(() => undefined)
})

test.each([[{ temperature: -1 }], [{ temperature: NaN }], [{ topK: -1 }], [{ topP: -0.1 }], [{ topP: 1.1 }], [{ minP: 2 }], [{ penalty: 0 }], [{ penalty: NaN }]])('options %o are refused', async (options) => {
  await expect(sample([[0, 1]], [options], { seeds: [[0, 0]] })).rejects.toMatchObject({ code: 'ERR_KERNEL' })
  await cpu.fence().catch(() => undefined)
})
