// Run by fuzz.test.ts: calls every native function with good, spoiled and senseless arguments, and prints what came of it. Anything but a typed
// error is a failure; so is a crash, which the parent sees.
import { AnnealError } from '../../src/errors.ts'
import { cpu, dtypes, Tensor } from '../../src/tensor/index.ts'
import type { DType } from '../../src/tensor/index.ts'
import { randomNumbers } from '../cases/random.ts'
import { recipes } from './fuzzRecipes.ts'
import type { ArgumentRecipe, TensorRecipe } from './fuzzRecipes.ts'

const [, , seed = '1', wanted = '2000'] = process.argv
const random = randomNumbers(`fuzz ${seed}`)
const below = (n: number): number => Math.floor(random() * n)
const pick = <T>(list: readonly T[]): T => list[below(list.length)]!

const specials = [NaN, Infinity, -Infinity, -1, 0, -0, 1, 2, 3, 7, 0.5, 1e-30, 1e300, 2 ** 31, 2 ** 32 + 1, 2 ** 53, 2 ** 53 - 1, -(2 ** 53), 2 ** 60, 2 ** 87]
const senseless: unknown[] = [
  undefined, null, '', 'x', '7', true, false, {}, [], [1, 2], () => 1, Symbol('s'), 7n, new Date(0), new Uint8Array(4), new ArrayBuffer(8), new Proxy([1, 2], {}),
  new Proxy({}, { get() { throw new RangeError('trap') } }), Object.create(null), new Float64Array(2), [NaN], [-1], [2 ** 53], [[1]], Array(7).fill(1), new SharedArrayBuffer(8),
]
const floats: DType[] = ['float32', 'bfloat16', 'float64', 'float16']
const shapes = [[], [0], [1], [5], [33], [3, 5], [5, 3], [3, 0], [1, 1], [3, 33], [9, 4, 16], [2, 3, 5], [1, 1, 1, 1, 1, 1]]
const fillings = [() => 2 * random() - 1, () => NaN, () => Infinity, () => -1e30, () => pick(specials)]

function makeTensor(shape: readonly number[], dtype: DType, value: () => number): Tensor {
  const size = shape.reduce((a, b) => a * b, 1)
  const numbers = Array.from({ length: size }, () => {
    const x = value()
    return dtype.includes('float') ? x : Number.isFinite(x) ? Math.trunc(x) % 2 ** 31 : 0
  })
  return Tensor.from(numbers, shape, { dtype })
}
const anyTensor = (): Tensor => makeTensor(pick(shapes), pick(dtypes), pick(fillings))

const isTensor = (recipe: ArgumentRecipe): recipe is TensorRecipe => typeof recipe === 'object' && 'dtype' in recipe
const isList = (recipe: ArgumentRecipe): recipe is readonly TensorRecipe[] => Array.isArray(recipe) && typeof recipe[0] === 'object'

function good(recipe: ArgumentRecipe, float: DType, made: Tensor[]): unknown {
  if (isList(recipe)) return recipe.map((one) => good(one, float, made))
  if (!isTensor(recipe)) return recipe
  const { dtype, shape, below: limit, numbers } = recipe
  let next = 0
  const value = numbers ? () => numbers[next++]! : limit ? () => below(limit) : random() < 0.9 ? fillings[0]! : pick(fillings)
  const tensor = makeTensor(shape, dtype === 'f' ? float : dtype, value)
  made.push(tensor)
  return tensor.handle
}

/** Something else in the place of an argument. */
function spoiled(recipe: ArgumentRecipe, made: Tensor[]): unknown {
  if (random() < 0.15) return pick(senseless)
  if (typeof recipe === 'boolean') return random() < 0.5 ? !recipe : pick(senseless)
  if (typeof recipe === 'number') return pick(specials)
  if (isList(recipe)) {
    const at = below(recipe.length)
    const items = recipe.map((one, i) => i === at ? spoiled(one, made) : good(one, pick(floats), made))
    return random() < 0.3 ? items.slice(1) : items
  }
  if (!isTensor(recipe)) return Array.from({ length: below(8) }, () => pick(specials))
  const kind = below(6)
  if (kind === 0) return pick(specials)
  let tensor: Tensor
  if (kind === 1) tensor = anyTensor()
  else if (kind === 2) tensor = makeTensor(recipe.shape, pick(dtypes), pick(fillings))
  else if (kind === 3) tensor = makeTensor(recipe.shape.map((length) => Math.max(0, length + pick([-1, 0, 1, -length]))), recipe.dtype === 'f' ? pick(floats) : recipe.dtype, pick(fillings))
  else if (kind === 4) tensor = makeTensor(pick([[...recipe.shape, 1], recipe.shape.slice(1), [...recipe.shape].reverse()]), recipe.dtype === 'f' ? 'float32' : recipe.dtype, pick(fillings))
  else {
    tensor = anyTensor()
    const { handle } = tensor
    tensor.dispose()
    return handle
  }
  made.push(tensor)
  return tensor.handle
}

const counts = { calls: 0, done: 0, refused: 0 }
const problems: string[] = []

/** An error of ours, or one that the argument itself threw. */
function judge(error: unknown, what: string): void {
  counts.refused++
  const own = error instanceof RangeError && error.message === 'trap'
  const ofJavaScript = error instanceof TypeError && /^Cannot convert/.test(error.message)
  if (!(error instanceof AnnealError) && !own && !ofJavaScript) problems.push(`${what}: ${String(error)}`)
}

async function attempt(what: string, body: () => unknown): Promise<void> {
  counts.calls++
  try {
    const result = body()
    if (result instanceof Promise) await result
    await cpu.fence()
    counts.done++
  } catch (error) {
    judge(error, what)
  }
}

const kernels = cpu.kernels as unknown as Record<string, (...parameters: unknown[]) => void>

async function fuzzKernel(name: string): Promise<void> {
  const recipe = recipes[name]!
  const made: Tensor[] = []
  const float = pick(floats.slice(0, 3))
  const parameters = recipe.map((argument) => good(argument, float, made))
  for (let n = pick([0, 1, 1, 1, 2, 3]); n > 0; n--) {
    const i = below(recipe.length)
    parameters[i] = spoiled(recipe[i]!, made)
  }
  if (random() < 0.02) parameters.pop()
  if (random() < 0.02) parameters.push(pick(senseless))
  await attempt(name, () => { kernels[name]!(...parameters) })
  for (const tensor of made) tensor.dispose()
}

const native = cpu.native as unknown as Record<string, (...parameters: unknown[]) => unknown>
const anything = (): unknown => random() < 0.5 ? pick(specials) : pick(senseless)
const shape = (): unknown => random() < 0.6 ? Array.from({ length: below(8) }, () => pick([0, 1, 2, 5, 33, ...specials])) : anything()

function endCapture(): void {
  try {
    cpu.native.releaseGraph(cpu.native.endCapture(0))
  } catch {
    // None was begun.
  }
}

async function fuzzExport(): Promise<void> {
  const tensor = anyTensor()
  const handle = (): unknown => random() < 0.6 ? tensor.handle : anything()
  const device = (): unknown => random() < 0.8 ? 0 : anything()
  const calls: Record<string, () => unknown[]> = {
    create: () => [random() < 0.7 ? below(8) : anything(), shape(), device()],
    view: () => [handle(), random() < 0.7 ? pick([0, 4, 8, 1, 400]) : anything(), random() < 0.7 ? below(8) : anything(), shape()],
    release: () => [anything()],
    write: () => [handle(), random() < 0.7 ? new Uint8Array(pick([0, 1, 4, tensor.bytes, tensor.bytes + 1])) : anything()],
    read: () => [handle()],
    // Never a file that is open.
    readFile: () => [handle(), pick([1e6, -1, NaN, 2 ** 32 + 1e6, 2 ** 53]), random() < 0.5 ? 0 : anything(), 'file'],
    writeFile: () => [handle(), pick([1e6, -1, NaN, 2 ** 32 + 1e6, 2 ** 53]), random() < 0.5 ? 0 : anything(), anything()],
    copy: () => [handle(), handle()],
    setMemoryLimit: () => [device(), anything()], setThreads: () => [pick([0, 1, 2, 3, -1, NaN, 1025, 2 ** 40, 'x', {}])], setIsa: () => [pick(['baseline', 'avx9', '', 'AVX2', {}, null, Symbol('s')])],
    setErrorFactory: () => [pick(senseless.filter((x) => typeof x !== 'function'))], fence: () => [device()], memory: () => [device()], launches: () => [device()], info: () => [anything()],
    resetPeak: () => [device()], emptyCache: () => [device()],
    openDevice: () => [anything(), anything()], describeDevices: () => [anything()],
    beginCapture: () => [device()], endCapture: () => [device()], replay: () => [anything()], releaseGraph: () => [anything()],
  }
  const name = pick(Object.keys(calls))
  const parameters = calls[name]!()
  if (random() < 0.1) parameters.pop()
  let created: unknown
  await attempt(name, () => {
    const result = native[name]!(...parameters)
    if (name === 'create' || name === 'view') created = result
    return result
  })
  if (created !== undefined) cpu.native.release(created as number)
  // While a graph is being recorded nothing can be read.
  if (name === 'beginCapture') endCapture()
  tensor.dispose()
  cpu.setMemoryLimit(1 << 30)
}

cpu.setMemoryLimit(1 << 30)
cpu.threads = 2
const names = Object.keys(cpu.kernels)
const missing = names.filter((name) => !recipes[name])
const untouched = Object.fromEntries(names.map((name) => [name, 0]))
const before = cpu.memory().live
for (let i = 0; i < Number(wanted); i++) {
  if (random() < 0.15) await fuzzExport()
  else {
    const name = names[i % names.length]!
    const done = counts.done
    await fuzzKernel(name)
    untouched[name]! += counts.done - done
  }
}
const never = names.filter((name) => untouched[name] === 0)
console.log(JSON.stringify({ ...counts, missing, never, leaked: cpu.memory().live - before, problems: problems.slice(0, 20) }))
