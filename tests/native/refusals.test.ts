// Proves that a kernel's arguments are checked where it is called: a wrong dtype, shape or number throws there, and nothing reaches the stream.
import { describe, expect, test } from 'vitest'
import { KernelError } from '../../src/errors.ts'
import { cpu, scope, Tensor } from '../../src/tensor/index.ts'
import { recipes } from './fuzzRecipes.ts'
import type { ArgumentRecipe, TensorRecipe } from './fuzzRecipes.ts'

/** What is special to a kernel: the arguments (by place) that may have any shape, or float16, and for some places numbers that are refused. */
const special: Readonly<Record<string, { readonly anyShape?: readonly number[]; readonly anyDtype?: readonly number[]; readonly numbers?: readonly (readonly [place: number, wrong: number, message: string])[] }>> = {
  fill: { anyShape: [0], anyDtype: [0] },
  iota: { anyShape: [0] },
  convert: { anyDtype: [0, 1] },
  attention: { anyShape: [6] },
  attention_backward: { anyShape: [10] },
  attention_plan: { anyShape: [0] },
  attention_dropout: { numbers: [[11, 1, 'p must be at least 0 and below 1, but is 1'], [11, NaN, 'p must']] },
  attention_dropout_backward: { numbers: [[15, -0.1, 'p must be at least 0 and below 1, but is -0.1']] },
  quantize: { anyDtype: [3] },
  dequantize: { anyDtype: [0] },
  cross_entropy: { numbers: [[4, 1.5, 'smoothing must lie in [0, 1], but is 1.5'], [4, NaN, 'smoothing must']] },
  cross_entropy_backward: { numbers: [[5, -0.1, 'smoothing must lie in [0, 1], but is -0.1']] },
  linear_cross_entropy: { numbers: [[9, 2, 'smoothing must lie in [0, 1], but is 2'], [10, -1, 'soft_cap must be 0 (none) or positive, but is -1'], [10, 1e300, 'soft_cap must']] },
  selective_log_softmax: { numbers: [[5, 0, 'temperature must be positive, but is 0'], [5, Infinity, 'temperature must']] },
  selective_log_softmax_backward: { numbers: [[7, -1, 'temperature must be positive, but is -1']] },
  linear_logprob: { numbers: [[7, 0, 'temperature must be positive, but is 0'], [8, NaN, 'soft_cap must']] },
  linear_logprob_backward: { numbers: [[11, 0, 'temperature must be positive, but is 0'], [12, -2, 'soft_cap must']] },
  linear_divergence: { numbers: [[13, 1.1, 'beta must lie in [0, 1], but is 1.1'], [14, 0, 'temperature must']] },
  linear_top_divergence: { numbers: [[12, 34, 'vocabulary must lie in [1, 33], but is 34'], [12, 3, 'id must have shape [5, k], k from 1 to 3, but has [5, 4]'], [13, NaN, 'beta must'], [14, -1, 'temperature must']] },
  group_advantages: { numbers: [[4, 4, 'group must divide the 6 samples, but is 4'], [4, 0, 'group must divide'], [5, 5, 'unknown scaling 5'], [5, -1, 'unknown scaling -1']] },
  policy_loss: { numbers: [[11, 4, 'unknown objective 4'], [12, 3, 'unknown level 3'], [6, 0, 'beta is 0.1, so reference must be given']] },
  sum_squares: { anyShape: [1] },
  adamw: { anyShape: [5], numbers: [[11, 0, 'step must count from 1, but is 0']] },
  adamw_8bit: { anyShape: [7], numbers: [[13, 0, 'step must count from 1, but is 0']] },
  count_non_finite: { anyShape: [1] },
  random_uniform: { anyShape: [0], numbers: [[2, -1, 'low must be below high, but they are -1 and -1']] },
  random_normal: { anyShape: [0], numbers: [[2, -1, 'deviation must be at least 0, but is -1']] },
  dropout: { numbers: [[2, 1.5, 'p must be between 0 and 1, but is 1.5'], [2, NaN, 'p must']] },
}

const isTensor = (recipe: ArgumentRecipe): recipe is TensorRecipe => typeof recipe === 'object' && 'dtype' in recipe
const isList = (recipe: ArgumentRecipe): recipe is readonly TensorRecipe[] => Array.isArray(recipe) && typeof recipe[0] === 'object'
const zeros = ({ dtype, shape }: TensorRecipe): number => Tensor.zeros(shape, { dtype: dtype === 'f' ? 'float32' : dtype }).handle
/** The same with another dtype or shape in the place of the last tensor of a list. */
const argument = (recipe: ArgumentRecipe, change: (one: TensorRecipe) => number = zeros): unknown =>
  isList(recipe) ? recipe.map((one, i) => i === recipe.length - 1 ? change(one) : zeros(one)) : isTensor(recipe) ? change(recipe) : recipe

const kernels = cpu.kernels as unknown as Record<string, (...parameters: unknown[]) => void>

/** The error that the call throws at once, with the argument at `place` replaced. */
async function refusal(name: string, place: number, replaced: (recipe: ArgumentRecipe) => unknown): Promise<string> {
  const message = scope(() => {
    const parameters = recipes[name]!.map((recipe, i) => i === place ? replaced(recipe) : argument(recipe))
    try {
      kernels[name]!(...parameters)
    } catch (error) {
      expect(error, `${name}, argument ${place}`).toBeInstanceOf(KernelError)
      return (error as KernelError).message
    }
    throw new Error(`${name}: argument ${place} was not refused`)
  })
  await cpu.fence()
  return message
}

describe.each(Object.keys(recipes))('%s', (name) => {
  const { anyShape = [], anyDtype = [], numbers = [] } = special[name] ?? {}
  const places = recipes[name]!.flatMap((recipe, i) => isTensor(recipe) || isList(recipe) ? [i] : [])
  const half = (one: TensorRecipe): number => Tensor.zeros(one.shape, { dtype: 'float16' }).handle
  const other = ({ dtype }: TensorRecipe): number => zeros({ dtype, shape: [2, 1, 3, 2] })

  test('refuses tensors of another dtype', async () => {
    for (const place of places.filter((i) => !anyDtype.includes(i))) expect(await refusal(name, place, (recipe) => argument(recipe, half))).toMatch(new RegExp(`^${name}\\b`))
  })
  test('refuses tensors of another shape', async () => {
    for (const place of places.filter((i) => !anyShape.includes(i))) expect(await refusal(name, place, (recipe) => argument(recipe, other))).toMatch(new RegExp(`^${name}\\b`))
  })
  if (numbers.length > 0) test('refuses numbers out of range', async () => {
    for (const [place, wrong, message] of numbers) expect(await refusal(name, place, () => wrong)).toContain(`${name}: ${message}`)
  })
})

test('lists need an entry for each parameter', async () => {
  const shorter = (recipe: ArgumentRecipe): unknown => (argument(recipe) as unknown[]).slice(1)
  for (const name of ['adamw', 'adamw_8bit'])
    for (const [place, recipe] of recipes[name]!.entries())
      if (Array.isArray(recipe)) expect(await refusal(name, place, shorter)).toMatch(new RegExp(`^${name}: .* must have [12] (tensors|numbers), one for each parameter, but ha`))
})
