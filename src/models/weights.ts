import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { ConfigError, FileFormatError } from '../errors.ts'
import {
  openCheckpoint, replaceFile, requireFreeSpace, safetensorsDtypes, writeCheckpoint, type CheckpointTensor, type CheckpointWeights, type SafetensorsDtype, type TensorSource,
} from '../files/index.ts'
import { didYouMean } from '../suggest.ts'
import { Tensor, unscoped, type Device, type DType } from '../tensor/index.ts'
import { configToJson } from './config.ts'
import type { CausalLanguageModel } from './causal.ts'

/** Float dtypes of safetensors that become parameters. */
const floatDtypes: Partial<Record<SafetensorsDtype, DType>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16', F64: 'float64' }
const storedDtypes: Partial<Record<DType, SafetensorsDtype>> = { float32: 'F32', bfloat16: 'BF16', float16: 'F16', float64: 'F64' }

const shapeText = (shape: readonly number[]): string => `[${shape.join(', ')}]`

/** The parameter name a checkpoint means: base-model checkpoints leave `model.` or `transformer.` out. undefined: nothing of use. */
function parameterName(model: CausalLanguageModel, stored: string, names: ReadonlyMap<string, unknown>): string | undefined {
  if (names.has(stored)) return stored
  if (model.ignoredTensors.test(stored)) return undefined
  const prefixed = `${model.baseModelPrefix}.${stored}`
  return names.has(prefixed) ? prefixed : stored
}

/** Pairs each parameter with its tensor in the file. Nothing is allocated before every name, shape and dtype fits. */
function matchTensors(model: CausalLanguageModel, weights: CheckpointWeights): Map<string, CheckpointTensor> {
  const names = new Map(model.everyName())
  const unique = new Map([...model.namedParameters()].map(([name, parameter]) => [parameter, name]))
  const found = new Map<string, CheckpointTensor>()
  for (const [stored, entry] of weights.tensors) {
    const name = parameterName(model, stored, names)
    if (name === undefined) continue
    const parameter = names.get(name)
    if (!parameter) {
      throw new FileFormatError(`${entry.file.path}: tensor ${JSON.stringify(stored)}: ${model.config.architecture} has no such parameter${didYouMean(stored, names.keys())}`)
    }
    // A tied parameter's second name, such as lm_head.weight, is the same tensor again.
    if (unique.get(parameter) !== name) continue
    if (entry.shape.join() !== parameter.shape.join()) {
      throw new FileFormatError(`${entry.file.path}: tensor ${JSON.stringify(stored)}: expected shape ${shapeText(parameter.shape)}, as config.json says, got ${shapeText(entry.shape)}`)
    }
    if (!floatDtypes[entry.dtype]) {
      throw new FileFormatError(`${entry.file.path}: tensor ${JSON.stringify(stored)}: expected dtype ${Object.keys(floatDtypes).join(', ')}, got ${entry.dtype}; quantized checkpoints must be converted first`)
    }
    if (found.has(name)) throw new FileFormatError(`${weights.folder}: tensor ${JSON.stringify(name)} is there twice, with and without "${model.baseModelPrefix}."`)
    found.set(name, entry)
  }
  const missing = [...unique.values()].filter((name) => !found.has(name))
  if (missing.length) {
    const more = missing.length > 1 ? ` and ${missing.length - 1} more` : ''
    throw new FileFormatError(`${weights.folder}: no tensor ${JSON.stringify(missing[0])}${more} in the checkpoint, which ${model.config.architecture} needs${didYouMean(missing[0]!, weights.tensors.keys())}`)
  }
  return found
}

/** float16 is for storage only. */
const ownDtype = (entry: CheckpointTensor): DType => (entry.dtype === 'F16' ? 'float32' : floatDtypes[entry.dtype]!)

/** The stored bytes, read by native code straight into a tensor, then converted where the dtype differs. */
function readTensor(entry: CheckpointTensor, dtype: DType, device: Device): Tensor {
  const { shape, byteOffset, file } = entry
  const stored = Tensor.empty(shape, { dtype: floatDtypes[entry.dtype]!, device })
  device.native.readFile(stored.handle, file.fd, byteOffset, file.path)
  if (stored.dtype === dtype) return stored
  const result = Tensor.empty(shape, { dtype, device })
  device.kernels.convert(result.handle, stored.handle)
  stored.dispose()
  return result
}

/**
 * Fills the parameters from a model folder, tensor by tensor: at no time are there more than the weights and one tensor of the file.
 * `dtype` 'auto' keeps each tensor's own, with float32 for float16. Throws FileFormatError naming the tensor that is missing, unknown or of another shape.
 */
export async function loadWeights(model: CausalLanguageModel, folder: string, dtype: DType | 'auto', device: Device): Promise<void> {
  const weights = await openCheckpoint(folder)
  try {
    const parameters = new Map(model.namedParameters())
    for (const [name, entry] of matchTensors(model, weights)) {
      parameters.get(name)!.replace(unscoped(() => readTensor(entry, dtype === 'auto' ? ownDtype(entry) : dtype, device)))
    }
    await device.fence()
  } catch (error) {
    model.dispose()
    throw error
  } finally {
    await weights.close()
  }
}

export interface SaveOptions {
  /** Largest file, such as '5GB'; larger models are written in shards. Default 50GB. */
  maxShardSize?: number | string
  /** Default: that of the parameters. */
  dtype?: DType
  /** Values to write instead of the model's, by parameter name: float32 masters of a bfloat16 model, or an average over steps. */
  stateDict?: ReadonlyMap<string, Tensor>
}

/** The values to write, in the model's order; converted ones live for their own turn only. */
function sources(model: CausalLanguageModel, { dtype, stateDict }: SaveOptions): TensorSource[] {
  const names = new Map(model.everyName())
  for (const name of stateDict?.keys() ?? []) if (!names.has(name)) throw new ConfigError(`stateDict: the model has no parameter ${JSON.stringify(name)}${didYouMean(name, names.keys())}`)
  return [...model.namedParameters()].map(([name, parameter]) => {
    const tensor = stateDict?.get(name) ?? parameter.tensor
    if (tensor.shape.join() !== parameter.shape.join()) throw new ConfigError(`stateDict: ${name}: expected shape ${shapeText(parameter.shape)}, got ${shapeText(tensor.shape)}`)
    const wanted = dtype ?? tensor.dtype
    const stored = storedDtypes[wanted] ?? (() => { throw new ConfigError(`dtype: expected ${Object.keys(storedDtypes).join(', ')}, got ${wanted}`) })()
    return {
      name, dtype: stored, shape: parameter.shape,
      writeTo: async (file, offset) => {
        const { device } = tensor
        const written = wanted === tensor.dtype ? tensor : unscoped(() => Tensor.empty(tensor.shape, { dtype: wanted, device }))
        if (written !== tensor) device.kernels.convert(written.handle, tensor.handle)
        device.native.writeFile(written.handle, file.fd, offset, name)
        try {
          await device.fence()
        } finally {
          if (written !== tensor) written.dispose()
        }
      },
    }
  })
}

const json = (value: unknown): string => `${JSON.stringify(value, undefined, 2)}\n`

/** Writes config.json, generation_config.json and the weights into a folder; each file appears complete or not at all. */
export async function savePretrained(model: CausalLanguageModel, folder: string, options: SaveOptions = {}): Promise<void> {
  const tensors = sources(model, options)
  const bytesNeeded = tensors.reduce((sum, { dtype, shape }) => sum + shape.reduce((a, b) => a * b, 1) * safetensorsDtypes[dtype] / 8, 0)
  await mkdir(folder, { recursive: true })
  await requireFreeSpace(join(folder, 'model.safetensors'), bytesNeeded)
  await writeCheckpoint(folder, tensors, { ...(options.maxShardSize === undefined ? {} : { maxShardSize: options.maxShardSize }), totalParameters: model.numParameters() })
  await replaceFile(join(folder, 'config.json'), json(configToJson(model.config, options.dtype ?? model.dtype)))
  if (model.generationConfig) await replaceFile(join(folder, 'generation_config.json'), json(model.generationConfig))
}
