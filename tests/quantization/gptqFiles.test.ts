// Proves that GPTQ checkpoints of 2 and 3 bits are read exactly, as AutoGPTQ and every version of GPTQModel pack them, and what 4 bits borrow from their neighbours.
import { createHash } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { ConfigError, FileFormatError } from '../../src/errors.ts'
import { openSafetensors } from '../../src/files/index.ts'
import { AutoModelForCausalLM, dequantizeModel, type CausalLanguageModel } from '../../src/models/index.ts'
import recorded from '../recorded/quantization-gptq/expected.json' with { type: 'json' }
import { edited, quantizedLayer, readAll, workplace, type Entry } from './folders.ts'

const { kept, newFolder } = workplace()
const load = async (folder: string) => kept(await AutoModelForCausalLM.fromPretrained(folder))
const logitsOf = async (model: CausalLanguageModel) => await model.forward({ inputIds: [[5, 9, 30, 7, 10], [12, 14]] }).logits!.data() as Float32Array
type Case = keyof typeof recorded
const names = Object.keys(recorded) as Case[]

/** A small model with the layers of a case in place of its own. */
async function folderOfCase(name: Case, config: object = {}, edit: (tensors: Map<string, Entry>) => void = () => undefined): Promise<string> {
  const [plain, folder] = [newFolder(), newFolder()]
  const model = kept(AutoModelForCausalLM.fromConfig({ modelType: 'llama', vocabSize: 40, hiddenSize: 64, intermediateSize: 96, numHiddenLayers: 1, numAttentionHeads: 4, numKeyValueHeads: 4 }))
  await model.savePretrained(plain)
  const file = await openSafetensors(fileURLToPath(new URL(`../recorded/quantization-gptq/${name}.safetensors`, import.meta.url)))
  const layers = new Map<string, Entry>()
  for (const [key, { dtype, shape }] of file.tensors) layers.set(key, { dtype, shape, bytes: await file.readTensorBytes(key) })
  await file.close()
  await edited(plain, folder, (tensors) => {
    for (const layer of Object.keys(recorded[name].sha256)) tensors.delete(`${layer}.weight`)
    for (const [key, entry] of layers) tensors.set(key, entry)
    edit(tensors)
  })
  const path = join(folder, 'config.json')
  await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, 'utf8')) as object, quantization_config: { ...recorded[name].quantization_config, ...config } }))
  return folder
}

/** Of every quantised layer's numbers. */
async function hashesOf(model: CausalLanguageModel, name: Case): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {}
  for (const layer of Object.keys(recorded[name].sha256)) {
    const numbers = await kept(quantizedLayer(model, layer).dequantize()).data() as Float32Array
    hashes[layer] = createHash('sha256').update(new Uint8Array(numbers.buffer)).digest('hex')
  }
  return hashes
}

describe('GPTQ checkpoints', () => {
  test.each(names)('of %s have the numbers of the reference formula, also after writing', async (name) => {
    const model = await load(await folderOfCase(name))
    expect(await hashesOf(model, name)).toEqual(recorded[name].sha256)
    expect(model.quantizationConfig).toMatchObject({ format: 'int4', zeroPoints: !recorded[name].quantization_config.sym })
    const folder = newFolder()
    await model.savePretrained(folder)
    const again = await load(folder)
    expect(await hashesOf(again, name)).toEqual(recorded[name].sha256)
    expect(await logitsOf(again)).toEqual(await logitsOf(model))
    expect(again.quantizationConfig).toEqual(model.quantizationConfig)
  })

  test.each(['2bit-borrows', '3bit-asymmetric'] as const)('of %s compute what their numbers do', async (name) => {
    const model = await load(await folderOfCase(name))
    const quantized = await logitsOf(model)
    dequantizeModel(model)
    const plain = await logitsOf(model)
    plain.forEach((value, i) => { expect(Math.abs(quantized[i]! - value)).toBeLessThan(1e-5) })
  })

  test('that are symmetric become int4 without zero points, and are written as 4 bits', async () => {
    for (const name of ['2bit', '3bit', '3bit-old'] as const) {
      const model = await load(await folderOfCase(name))
      expect(quantizedLayer(model, 'model.layers.0.mlp.down_proj').weight).toMatchObject({ format: 'int4', block: 16, zeros: null })
      const folder = newFolder()
      await model.savePretrained(folder)
      expect((await readAll(folder)).get('model.layers.0.mlp.down_proj.qweight')).toMatchObject({ dtype: 'I32', shape: [12, 64] })
      expect(JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))).toMatchObject({ quantization_config: { bits: 4, sym: true, checkpoint_format: 'gptq' } })
    }
  })

  test('of 3 bits are read by who made them', async () => {
    const makers = (...quantizer: readonly string[]) => ({ meta: { quantizer } })
    const of = async (name: Case, config: object) => hashesOf(await load(await folderOfCase(name, config)), name)
    for (const maker of ['gptqmodel:7.0.0', 'gptqmodel:10.1', 'optimum:1.2']) expect(await of('3bit-new', makers(maker))).toEqual(recorded['3bit-new'].sha256)
    for (const maker of ['gptqmodel:6.0.3', 'GPTQModel:0.9.8']) {
      expect(await of('3bit-old-asymmetric', makers(maker))).toEqual(recorded['3bit-old-asymmetric'].sha256)
      expect(await of('3bit-new', makers(maker))).not.toEqual(recorded['3bit-new'].sha256)
      expect(await of('3bit-v2', makers(maker))).toEqual(recorded['3bit-v2'].sha256)
    }
    expect(await of('3bit-new', { meta: { quantizer: 'gptqmodel:7.1.0' } })).toEqual(recorded['3bit-new'].sha256)
    expect(await of('3bit-new', { meta: undefined })).toEqual(recorded['3bit-new'].sha256)
  })

  test('of other lengths, or of words that do not fit, are refused', async () => {
    const open = async (...[name, ...rest]: Parameters<typeof folderOfCase>) => AutoModelForCausalLM.fromPretrained(await folderOfCase(name, ...rest))
    await expect(open('3bit', { bits: 5 })).rejects.toThrow(ConfigError)
    await expect(open('3bit', { bits: 5 })).rejects.toThrow(/quantization_config\.bits: expected 2, 3, 4 or 8, got 5/)
    await expect(open('3bit', { bits: 2 })).rejects.toThrow(FileFormatError)
    await expect(open('3bit', { bits: 2 })).rejects.toThrow(/down_proj\.qzeros": expected shape \[6, 4\], as config\.json says, got \[6, 6\]/)
    await expect(open('3bit', { checkpoint_format: 'gptq_p' })).rejects.toThrow(/checkpoint_format: expected gptq or gptq_v2, got "gptq_p"/)
    const shorter = (tensors: Map<string, Entry>): void => {
      const key = 'model.layers.0.mlp.down_proj.qweight'
      tensors.set(key, { ...tensors.get(key)!, shape: [8, 64], bytes: tensors.get(key)!.bytes.slice(0, 2048) })
    }
    await expect(open('3bit', {}, shorter)).rejects.toThrow(/down_proj\.qweight": expected shape \[9, 64\], as config\.json says, got \[8, 64\]/)
  })
})
