// Proves that damaged and foreign files, and models that do not fit the format, end in typed errors that name what is wrong.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { AnnealError, ConfigError, FileAccessError, FileFormatError, NonFiniteError } from '../../src/errors.ts'
import { exportGguf, loadGguf, openGguf } from '../../src/export/index.ts'
import { list, text, uint32, type GgufValue } from '../../src/export/gguf/types.ts'
import { writeGguf, type GgufTensorSource } from '../../src/export/gguf/writer.ts'
import { AutoModelForCausalLM, createConfig } from '../../src/models/index.ts'
import { Linear, LinearLayer } from '../../src/nn/linear.ts'
import { Tensor } from '../../src/tensor/index.ts'
import { recordedModel, recordedTokenizer } from './fixtures.ts'
import { temporaryFolder } from './folder.ts'

const folder = temporaryFolder()
const path = join(folder, 'file.gguf')

const ones = (name: string, size: number): GgufTensorSource => ({ name, format: 'F32', shape: [size], pieces: () => [new Uint8Array(new Float32Array(size).fill(1).buffer)] })
const small = (): Promise<unknown> => writeGguf(path, new Map<string, GgufValue>([['general.architecture', text('llama')], ['list', list('string', ['a', 'bc'])]]), [ones('x', 3), ones('y', 40)])

/** The small file with some bytes replaced. */
async function damaged(change: (bytes: Buffer) => Buffer): Promise<string> {
  await small()
  const other = join(folder, 'damaged.gguf')
  writeFileSync(other, change(readFileSync(path)))
  return other
}

const write32 = (at: number, value: number) => (bytes: Buffer) => { bytes.writeUInt32LE(value, at); return bytes }
const write64 = (at: number, value: bigint) => (bytes: Buffer) => { bytes.writeBigUInt64LE(value, at); return bytes }

test('what is written is read: metadata, places and numbers', async () => {
  await small()
  const file = await openGguf(path)
  expect([...file.metadata]).toEqual([['general.architecture', text('llama')], ['list', list('string', ['a', 'bc'])]])
  expect(file.tensor('y')).toMatchObject({ format: 'F32', shape: [40], byteLength: 160 })
  expect(file.tensor('y').byteOffset % 32).toBe(0)
  expect(await file.read('y')).toEqual(new Float32Array(40).fill(1))
  expect(() => file.tensor('z')).toThrow(/no tensor "z"/)
  await file.close()
})

test('headers of any length are written whole', async () => {
  for (const length of [4, 40]) {
    // The writer's buffer grows at another byte of a string, or of its length, each time.
    for (let shift = 0; shift < length + 8; shift++) {
      const metadata = new Map<string, GgufValue>([['shift', text('a'.repeat(shift))], ['tokens', list('string', Array.from({ length: 12_000 }, (_, i) => String(i).padStart(length, '0').slice(-length)))]])
      await writeGguf(path, metadata, [ones('x', 3)])
      const file = await openGguf(path)
      expect(file.metadata).toEqual(metadata)
      expect(await file.read('x')).toEqual(new Float32Array(3).fill(1))
      await file.close()
    }
  }
})

test.each<[string, (bytes: Buffer) => Buffer, RegExp]>([
  ['another magic', write32(0, 1), /begins with "GGUF"/],
  ['a version to come', write32(4, 9), /version 2 or 3.*got 9/],
  ['more tensors than fit', write64(8, 2n ** 40n), /tensors: 1099511627776 do not fit/],
  ['2^63 entries', write64(16, 2n ** 63n), /below 2\^53/],
  ['a key longer than the file', write64(24, 1_000_000n), /do not fit/],
  ['an unknown value type', write32(24 + 8 + 20, 77), /value type.*got 77/],
  ['half a header', (bytes) => bytes.subarray(0, 60), /byte \d+: .*not written to its end/],
  ['no file to speak of', (bytes) => bytes.subarray(0, 3), /expected 4 bytes more, got 3/],
  ['the last tensor cut off', (bytes) => bytes.subarray(0, bytes.length - 64), /tensor "y": expected 160 bytes at/],
])('%s is a FileFormatError', async (_, change, message) => {
  const other = await damaged(change)
  await expect(openGguf(other)).rejects.toThrow(FileFormatError)
  await expect(openGguf(other)).rejects.toThrow(message)
})

test('no single damaged byte of the header does more than end in a typed error', async () => {
  await small()
  const length = readFileSync(path).length - 192
  for (let at = 0; at < length; at++) {
    const other = await damaged((bytes) => { bytes[at] = bytes[at]! ^ 0x81; return bytes })
    try { await (await openGguf(other)).close() } catch (error) { expect(error).toBeInstanceOf(AnnealError) }
  }
})

test('a missing file, foreign formats and foreign models are named', async () => {
  await expect(openGguf(join(folder, 'none.gguf'))).rejects.toThrow(FileAccessError)
  const six = await damaged((bytes) => { const at = bytes.indexOf(Buffer.from('x')); bytes.writeUInt32LE(14, at + 1 + 4 + 8); return bytes })
  await expect(openGguf(six)).rejects.toThrow(/tensor "x": expected one of the formats F32, F16, BF16, Q8_0, Q4_0, got Q6_K/)
  await writeGguf(path, new Map([['general.architecture', text('mamba')]]), [ones('x', 3)])
  await expect(loadGguf(path)).rejects.toThrow(/general\.architecture: expected gpt2, llama, qwen2, qwen3, got "mamba"/)
  await writeGguf(path, new Map([['general.architecture', text('llama')], ['llama.context_length', text('long')]]), [ones('x', 3)])
  await expect(loadGguf(path)).rejects.toThrow(/llama\.context_length: expected a number, got string/)
  await writeGguf(path, new Map([['general.architecture', uint32(3)]]), [ones('x', 3)])
  await expect(loadGguf(path)).rejects.toThrow(/general\.architecture: expected a string/)
})

test('the writer refuses what GGUF cannot hold, and leaves nothing behind', async () => {
  const other = join(folder, 'unwritten.gguf')
  const write = (...tensors: GgufTensorSource[]) => writeGguf(other, new Map(), tensors)
  await expect(write(ones('x', 3), ones('x', 3))).rejects.toThrow(/"x": expected each name once/)
  await expect(write(ones('x'.repeat(64), 3))).rejects.toThrow(/below 64 bytes/)
  await expect(write({ ...ones('x', 3), format: 'Q8_0' })).rejects.toThrow(/multiple of 32 numbers for Q8_0/)
  await expect(write({ ...ones('x', 3), shape: [4] })).rejects.toThrow(/expected 16 bytes for F32 \[4\], got 12/)
  expect(existsSync(other)).toBe(false)
})

const shape = { modelType: 'llama', vocabSize: 700, hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 1, numAttentionHeads: 2, maxPositionEmbeddings: 64 }

test('models that llama.cpp would compute otherwise are refused by the field', async () => {
  const tokenizer = recordedTokenizer('llama2')
  const refused = (options: object) => exportGguf(AutoModelForCausalLM.fromConfig(createConfig({ ...shape, ...options })), tokenizer, path)
  const gpt2 = { modelType: 'gpt2', vocabSize: 700, nEmbd: 32, nLayer: 1, nHead: 2 }
  await expect(refused({ hiddenAct: 'gelu' })).rejects.toThrow(/hidden_act: expected "silu".*llama.*got "gelu"/)
  await expect(refused({ ...gpt2, activationFunction: 'relu' })).rejects.toThrow(/activation_function: expected "gelu_new"/)
  await expect(refused({ ...gpt2, scaleAttnByInverseLayerIdx: true })).rejects.toThrow(/scale_attn_by_inverse_layer_idx/)
  await expect(refused({ modelType: 'qwen3', attentionBias: true, headDim: 16 })).rejects.toThrow(/attention_bias/)
  await expect(refused({ ropeParameters: { ropeType: 'yarn', factor: 2, attentionFactor: 3 } })).rejects.toThrow(/attention_factor/)
  await expect(refused({ ropeParameters: { ropeType: 'longrope', factor: 2, shortFactor: Array(8).fill(1), longFactor: Array(8).fill(2) } })).rejects.toThrow(/rope_type/)
})

test('weights that are not finite or do not fit are refused by name', async () => {
  const tokenizer = recordedTokenizer('llama2')
  const model = AutoModelForCausalLM.fromConfig(createConfig(shape))
  const name = 'model.layers.0.mlp.up_proj.weight'
  const parameter = model.getParameter(name)
  parameter.replace(Tensor.full(parameter.shape, 1e5))
  await expect(exportGguf(model, tokenizer, path, { type: 'f16' })).rejects.toThrow(ConfigError)
  await expect(exportGguf(model, tokenizer, path, { type: 'f16' })).rejects.toThrow(`${name}: 100000 is too large for F16; export the model as bf16 or f32`)
  await expect(exportGguf(model, tokenizer, path, { type: 'bf16' })).resolves.toBeDefined()
  parameter.replace(Tensor.full(parameter.shape, NaN))
  await expect(exportGguf(model, tokenizer, path, { type: 'f32' })).rejects.toThrow(NonFiniteError)
  model.dispose()
})

/** A layer as adapters put it around another. */
class Wrapped extends LinearLayer {
  readonly base: Linear
  constructor(base: Linear) {
    super()
    this.base = base
  }

  get inFeatures(): number { return this.base.inFeatures }
  get outFeatures(): number { return this.base.outFeatures }
  forward(x: Tensor): Tensor { return this.base.forward(x) }
}

test('a model with layers of another kind is refused with the fix', async () => {
  const tokenizer = recordedTokenizer('llama2')
  const model = await recordedModel('llama2', tokenizer)
  const name = 'model.layers.0.mlp.up_proj'
  const layer = model.getModule(name)
  if (!(layer instanceof Linear)) throw new Error('up_proj is no Linear')
  model.replaceModule(name, new Wrapped(layer))
  await expect(exportGguf(model, tokenizer, path)).rejects.toThrow(`${name}.weight: expected a full-precision weight to export, got none: the model has adapters or quantised layers; merge the adapter`)
  model.dispose()
})
