// Proves that mergeFolder() writes a model that computes what the adapter did beside its base, quantised bases included, and measures it.
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { addAdapter, AutoPeftModelForCausalLM, saveAdapter } from '../../src/adapters/index.ts'
import { mergeFolder } from '../../src/export/index.ts'
import { AutoModelForCausalLM, quantizedLayers } from '../../src/models/index.ts'
import { Tensor, unscoped } from '../../src/tensor/index.ts'
import { temporaryFolder } from '../files/helpers.ts'
import { makeModel, sentences, writeRows } from '../methods/support.ts'
import { distance } from '../models/recorded.ts'

const live: { dispose(): void }[] = []
afterEach(() => { for (const one of live.splice(0)) one.dispose() })

async function adapterFolder(): Promise<{ folder: string, adapter: string, evalFile: string }> {
  const folder = temporaryFolder()
  await makeModel(join(folder, 'base'))
  const model = await AutoModelForCausalLM.fromPretrained(join(folder, 'base'))
  live.push(model)
  await addAdapter(model, { type: 'lora', targetModules: ['q_proj', 'down_proj'], r: 4 }, { baseModel: join(folder, 'base') })
  for (const [i, parameter] of model.parameters().filter(({ requiresGrad }) => requiresGrad).entries()) {
    parameter.replace(unscoped(() => {
      const values = Tensor.empty([...parameter.shape])
      values.device.kernels.random_normal(values.handle, 0, 0.1, 7, i)
      return values
    }))
  }
  await saveAdapter(model, join(folder, 'adapter'))
  return { folder, adapter: join(folder, 'adapter'), evalFile: writeRows(join(folder, 'held.jsonl'), sentences.slice(0, 20).map((text) => ({ text }))) }
}

const inputIds = [[5, 9, 12, 40, 41], [7, 8]]

test('the merged model computes the same and its perplexities are measured', async () => {
  const { folder, adapter, evalFile } = await adapterFolder()
  const report = await mergeFolder({ adapter, output: join(folder, 'merged'), evalFile, tokenizer: join(folder, 'base') })
  expect(report.bitsPerWeight).toBe(32)
  expect(Math.abs(report.perplexity!.merged / report.perplexity!.adapter - 1)).toBeLessThan(1e-5)
  expect(Math.abs(report.perplexity!.merged / report.perplexity!.base - 1)).toBeGreaterThan(1e-4)
  const [merged, beside] = await Promise.all([AutoModelForCausalLM.fromPretrained(join(folder, 'merged')), AutoPeftModelForCausalLM.fromPretrained(adapter)])
  live.push(merged, beside)
  const [a, b] = await Promise.all([merged, beside].map((model) => model.forward({ inputIds }).logits!.toArray()))
  expect(distance(a!, b!)).toBeLessThan(1e-5)
})

test.each(['dequantize', 'requantize'] as const)('into a base of four bits, %s', async (quantized) => {
  const { folder, adapter } = await adapterFolder()
  const output = join(folder, 'merged')
  const report = await mergeFolder({ adapter, output, quantize: 'nf4', quantized })
  const merged = await AutoModelForCausalLM.fromPretrained(output)
  live.push(merged)
  expect(quantizedLayers(merged).size).toBe(quantized === 'requantize' ? 14 : 0)
  expect(report.bitsPerWeight < 32).toBe(quantized === 'requantize')
})

test('a quantised base needs a choice, and no folder is written over', async () => {
  const { folder, adapter } = await adapterFolder()
  await expect(mergeFolder({ adapter, output: join(folder, 'merged'), quantize: 'nf4' })).rejects.toThrow('quantized: the base is quantised')
  await expect(mergeFolder({ adapter, output: join(folder, 'base') })).rejects.toThrow('expected another folder')
})
