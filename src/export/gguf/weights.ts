import { ConfigError, NonFiniteError } from '../../errors.ts'
import type { CausalLanguageModel } from '../../models/index.ts'
import type { Parameter } from '../../nn/index.ts'
import { sizeOf, Tensor, unscoped, type Device, type DType } from '../../tensor/index.ts'
import { arrange } from './arrange.ts'
import { tensorFormats, type TensorFormatName } from './blocks.ts'
import type { GgufFile } from './reader.ts'
import { formatOf, tensorPlan, type GgufType, type TensorPlan } from './tensors.ts'
import type { GgufTensorSource } from './writer.ts'

/** Numbers in memory at a time, where a tensor has more rows than one. */
const pieceSize = 1 << 21

/** The parameters that go into the file; a model with adapters or quantised layers has others. */
function matchParameters(model: CausalLanguageModel, plans: readonly TensorPlan[]): ReadonlyMap<string, Parameter> {
  const parameters = new Map(model.everyName())
  const missing = plans.find(({ parameter }) => !parameters.has(parameter))
  if (missing) {
    throw new ConfigError(`${missing.parameter}: expected a full-precision weight to export, got none: the model has adapters or quantised layers; merge the adapter or dequantise the model first, or export the original`)
  }
  const own = new Set(plans.map(({ parameter }) => parameters.get(parameter)!))
  for (const [name, parameter] of parameters) {
    if (!own.has(parameter)) throw new ConfigError(`${name}: expected only parameters of ${model.config.architecture} to export, got this one too; merge or remove the adapter first`)
  }
  return parameters
}

/** Rows from `first` of a parameter, in float32. */
async function readRows(parameter: Parameter, first: number, rows: number): Promise<Float32Array<ArrayBuffer>> {
  const { shape, tensor } = parameter
  const columns = sizeOf(shape) / shape[0]!
  const part = unscoped(() => tensor.viewAs([rows, columns], first * columns))
  try {
    const data = await part.data()
    return data instanceof Float32Array ? new Float32Array(data.buffer as ArrayBuffer, data.byteOffset, data.length) : Float32Array.from(data, Number)
  } finally {
    part.dispose()
  }
}

/** Largest number whose block or value float16 can hold. */
const largest: Partial<Record<TensorFormatName, number>> = { F16: 65519.99, Q8_0: 65519.99 * 127, Q4_0: 65519.99 * 8 }

function checkRange(values: Float32Array, name: string, format: TensorFormatName): void {
  const limit = largest[format] ?? Infinity
  for (const value of values) {
    if (!Number.isFinite(value)) throw new NonFiniteError(`${name}: expected finite weights to export, got ${value}; the model is damaged, export an earlier checkpoint`)
    if (Math.abs(value) > limit) throw new ConfigError(`${name}: ${value} is too large for ${format}; export the model as bf16 or f32`)
  }
}

async function* encodePieces(parameter: Parameter, plan: TensorPlan, format: TensorFormatName): AsyncGenerator<Uint8Array> {
  const { arrangement, parameter: name } = plan
  const rows = parameter.shape[0]!
  const columns = parameter.size / rows
  const unit = arrangement.kind === 'heads' ? arrangement.headDim : 1
  const step = arrangement.kind === 'transpose' ? rows : unit * Math.max(1, Math.floor(pieceSize / (columns * unit)))
  for (let first = 0; first < rows; first += step) {
    const count = Math.min(step, rows - first)
    const values = await readRows(parameter, first, count)
    checkRange(values, name, format)
    yield tensorFormats[format].encode(arrange(values, count, arrangement))
  }
}

/** The tensors of a file of that type, from a model's parameters. */
export function weightSources(model: CausalLanguageModel, type: GgufType): GgufTensorSource[] {
  const plans = tensorPlan(model.config)
  const parameters = matchParameters(model, plans)
  return plans.map((plan) => {
    const format = formatOf(plan, type)
    return { name: plan.name, format, shape: plan.shape, pieces: () => encodePieces(parameters.get(plan.parameter)!, plan, format) }
  })
}

/** Fills a model's parameters from a file, tensor by tensor, dequantised and rounded to `dtype`. */
export async function readWeights(model: CausalLanguageModel, file: GgufFile, dtype: DType, device: Device): Promise<void> {
  const parameters = new Map(model.everyName())
  for (const { name, parameter, arrangement } of tensorPlan(model.config)) {
    const values = await file.read(name)
    const rows = file.tensor(name).shape[0]!
    const target = parameters.get(parameter)!
    target.replace(unscoped(() => Tensor.from(arrange(values, rows, arrangement, true), target.shape, { dtype, device })))
  }
}
