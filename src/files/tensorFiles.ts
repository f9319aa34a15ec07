import { FileFormatError } from '../errors.ts'
import { didYouMean } from '../suggest.ts'
import { openSafetensors, type SafetensorsDtype } from './safetensors.ts'
import { writeSafetensors, type TensorSource } from './safetensors-writer.ts'
import type { CheckpointTensor } from './shards.ts'
import { Tensor, unscoped, type Device, type DType } from '../tensor/index.ts'

/** Float dtypes of safetensors that become parameters. */
export const floatDtypes: Partial<Record<SafetensorsDtype, DType>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16', F64: 'float64' }
const storedDtypes: Partial<Record<DType, SafetensorsDtype>> = { float32: 'F32', bfloat16: 'BF16', float16: 'F16', float64: 'F64', uint8: 'U8' }

export const shapeText = (shape: readonly number[]): string => `[${shape.join(', ')}]`

/** How messages name a tensor of a file. */
export const placeOfTensor = (entry: CheckpointTensor, name: string): string => `${entry.file.path}: tensor ${JSON.stringify(name)}`

/** The stored bytes, read by native code straight into a tensor of another shape and dtype with as many bytes. */
export function readBytes({ byteOffset, file }: CheckpointTensor, shape: readonly number[], dtype: DType, device: Device): Tensor {
  return unscoped(() => {
    const tensor = Tensor.empty(shape, { dtype, device })
    device.native.readFile(tensor.handle, file.fd, byteOffset, file.path)
    return tensor
  })
}

/** A stored float tensor, converted where its dtype differs. */
export function readTensor(entry: CheckpointTensor, dtype: DType, device: Device): Tensor {
  const stored = readBytes(entry, entry.shape, floatDtypes[entry.dtype]!, device)
  if (stored.dtype === dtype) return stored
  using unconverted = stored
  return unscoped(() => unconverted.copyAs(dtype))
}

/** A tensor to write as `dtype`, in another shape of the same size where one is given; a converted copy lives for its own turn only. */
export function tensorSource(name: string, tensor: Tensor, dtype: DType = tensor.dtype, shape: readonly number[] = tensor.shape): TensorSource {
  return {
    name, dtype: storedDtypes[dtype]!, shape,
    writeTo: async (file, offset) => {
      const { device } = tensor
      using written = unscoped(() => dtype === tensor.dtype ? tensor.alias() : tensor.copyAs(dtype))
      device.native.writeFile(written.handle, file.fd, offset, name)
      await device.fence()
    },
  }
}

/** Writes tensors by name into one file, as they are. */
export async function saveTensors(path: string, tensors: Iterable<readonly [string, Tensor]>, metadata: Readonly<Record<string, string>> = { format: 'pt' }): Promise<void> {
  await writeSafetensors(path, [...tensors].map(([name, tensor]) => tensorSource(name, tensor)), metadata)
}

/**
 * Reads what saveTensors() wrote into tensors of the same names, shapes and dtypes, and returns the file's metadata. Nothing is read before all of it
 * fits. `other` says what an unfit file was made with; throws FileFormatError naming the tensor.
 */
export async function loadTensors(path: string, tensors: Iterable<readonly [string, Tensor]>, other: string): Promise<Readonly<Record<string, string>>> {
  const wanted = new Map(tensors)
  const file = await openSafetensors(path)
  try {
    const found = [...wanted].map(([name, tensor]) => {
      const entry = file.tensors.get(name)
      if (!entry) throw new FileFormatError(`${path}: no tensor "${name}"${didYouMean(name, file.tensors.keys())}; the file was made with ${other}`)
      const dtype = storedDtypes[tensor.dtype]!
      if (entry.dtype !== dtype || entry.shape.join() !== tensor.shape.join()) {
        throw new FileFormatError(`${path}: tensor "${name}": expected ${dtype} ${shapeText(tensor.shape)}, got ${entry.dtype} ${shapeText(entry.shape)}; the file was made with ${other}`)
      }
      return [tensor, entry.byteOffset] as const
    })
    const extra = [...file.tensors.keys()].find((name) => !wanted.has(name))
    if (extra !== undefined) throw new FileFormatError(`${path}: tensor "${extra}" belongs to nothing here; the file was made with ${other}`)
    for (const [tensor, offset] of found) tensor.device.native.readFile(tensor.handle, file.fd, offset, path)
    await found[0]?.[0].device.fence()
    return file.metadata
  } finally {
    await file.close()
  }
}
