// Proves that a GGUF file holds the model: every architecture and type is read back with the source's logits, and matrices stand as llama.cpp reads them.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gguf } from '@huggingface/gguf'
import { expect, test } from 'vitest'
import { exportGguf, loadGguf, openGguf } from '../../src/export/index.ts'
import { tensorFormats } from '../../src/export/gguf/blocks.ts'
import { AutoModelForCausalLM, createConfig } from '../../src/models/index.ts'
import { distance } from '../models/recorded.ts'
import { logitsOf, pairs, recordedModel, recordedTokenizer } from './fixtures.ts'
import { temporaryFolder } from './folder.ts'

const folder = temporaryFolder()
const ids = [3, 50, 1, 7, 90, 22, 14, 61, 5, 33]

test.each(pairs)('%s with the tokenizer of %s comes back from F32 with equal logits, from narrower types with near ones', async (family, name) => {
  const tokenizer = recordedTokenizer(name)
  const model = await recordedModel(family, tokenizer)
  const expected = await logitsOf(model, ids)
  for (const [type, tolerance] of [['f32', 0], ['f16', 2e-3], ['bf16', 2e-2], ['q8_0', 5e-2], ['q4_0', 0.6]] as const) {
    const path = join(folder, `${family}-${name}-${type}.gguf`)
    const { byteLength } = await exportGguf(model, tokenizer, path, { type })
    expect(readFileSync(path).length).toBe(byteLength)
    const back = await loadGguf(path)
    expect(distance(await logitsOf(back.model, ids), expected)).toBeLessThanOrEqual(tolerance)
    back.model.dispose()
  }
  model.dispose()
})

test('an independent reader sees the same header and finds the numbers where it says', async () => {
  const tokenizer = recordedTokenizer('qwen2')
  const model = await recordedModel('qwen3', tokenizer)
  const path = join(folder, 'independent.gguf')
  await exportGguf(model, tokenizer, path, { type: 'f32', name: 'independent' })
  const { metadata, tensorInfos, tensorDataOffset } = await gguf(path, { allowLocalFile: true })
  expect(metadata).toMatchObject({ version: 3, 'general.architecture': 'qwen3', 'general.name': 'independent', 'general.file_type': 0, 'qwen3.block_count': model.config.numHiddenLayers, 'tokenizer.ggml.pre': 'qwen2' })

  const file = await openGguf(path)
  expect(tensorInfos.map(({ name }) => name)).toEqual([...file.tensors.keys()])
  const bytes = readFileSync(path)
  for (const { name, shape, dtype, offset } of tensorInfos) {
    const own = file.tensor(name)
    expect(shape.map(Number)).toEqual(own.shape.toReversed())
    expect(dtype).toBe(tensorFormats.F32.code)
    const start = Number(tensorDataOffset + offset)
    expect(Buffer.from((await file.read(name)).buffer).equals(bytes.subarray(start, start + own.byteLength))).toBe(true)
  }
  await file.close()
  model.dispose()
})

test('rows of queries and keys are interleaved within each head for llama and stay for qwen', async () => {
  for (const [family, name, interleaved] of [['llama2', 'llama2', true], ['qwen2', 'qwen2', false]] as const) {
    const tokenizer = recordedTokenizer(name)
    const model = await recordedModel(family, tokenizer)
    const path = join(folder, `rows-${family}.gguf`)
    await exportGguf(model, tokenizer, path, { type: 'f32' })
    const file = await openGguf(path)
    const { headDim, hiddenSize } = model.config
    const [stored, own] = [await file.read('blk.0.attn_q.weight'), await model.getParameter('model.layers.0.self_attn.q_proj.weight').tensor.data()]
    for (let row = 0; row < stored.length / hiddenSize; row++) {
      // The converter's reshape(heads, 2, headDim / 2).swapaxes(1, 2).
      const [head, at] = [Math.floor(row / headDim), row % headDim]
      const from = interleaved ? head * headDim + (at % 2) * (headDim / 2) + Math.floor(at / 2) : row
      expect(stored[row * hiddenSize]).toBe(own[from * hiddenSize])
    }
    await file.close()
    model.dispose()
  }
})

test('scaled rotary embeddings come back with the same frequencies', async () => {
  const tokenizer = recordedTokenizer('llama2')
  const shape = { modelType: 'llama', vocabSize: tokenizer.embeddingRows, hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 1, numAttentionHeads: 2, maxPositionEmbeddings: 64 }
  const scalings = [
    { ropeType: 'linear', factor: 2 }, { ropeType: 'yarn', factor: 4, originalMaxPositionEmbeddings: 16 }, { ropeType: 'dynamic', factor: 2 },
    { ropeType: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 16 },
    { ropeType: 'longrope', factor: 1, attentionFactor: 1, shortFactor: [1, 2, 1, 3, 1, 1, 1, 2], longFactor: [1, 2, 1, 3, 1, 1, 1, 2], originalMaxPositionEmbeddings: 64 },
  ]
  for (const scaling of scalings) {
    const model = AutoModelForCausalLM.fromConfig(createConfig({ ...shape, ropeParameters: { ropeTheta: 500, ...scaling } }))
    const path = join(folder, `rope-${scaling.ropeType}.gguf`)
    const { warnings } = await exportGguf(model, tokenizer, path, { type: 'f32' })
    expect(warnings.some((warning) => warning.includes('dynamic'))).toBe(scaling.ropeType === 'dynamic')
    const back = await loadGguf(path)
    const long = Array.from({ length: 60 }, (_, i) => (7 * i) % 100)
    expect(distance(await logitsOf(back.model, long), await logitsOf(model, long))).toBeLessThan(1e-5)
    model.dispose()
    back.model.dispose()
  }
})

test('a bfloat16 model is written as it is, tied and untied, with biases', async () => {
  const tokenizer = recordedTokenizer('llama2')
  const shape = { modelType: 'llama', vocabSize: tokenizer.embeddingRows, hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 1, numAttentionHeads: 2, maxPositionEmbeddings: 64, attentionBias: true, mlpBias: true }
  for (const tieWordEmbeddings of [true, false]) {
    const model = AutoModelForCausalLM.fromConfig(createConfig({ ...shape, tieWordEmbeddings }), { dtype: 'bfloat16' })
    const path = join(folder, 'bfloat16.gguf')
    await exportGguf(model, tokenizer, path)
    const back = await loadGguf(path, { dtype: 'bfloat16' })
    expect(back.model.config.tieWordEmbeddings).toBe(tieWordEmbeddings)
    expect(await logitsOf(back.model, ids)).toEqual(await logitsOf(model, ids))
    const file = await openGguf(path)
    expect(file.tensors.has('output.weight')).toBe(!tieWordEmbeddings)
    expect(file.tensor('blk.0.attn_norm.weight').format).toBe('F32')
    expect(file.tensor('blk.0.attn_q.weight').format).toBe('BF16')
    await file.close()
    model.dispose()
    back.model.dispose()
  }
})

test('a 4-bit file keeps what makes the logits in 8 bits, and rows of no whole blocks in F16', async () => {
  const tokenizer = recordedTokenizer('llama2')
  const shape = { modelType: 'llama', vocabSize: tokenizer.embeddingRows, hiddenSize: 64, intermediateSize: 80, numHiddenLayers: 1, numAttentionHeads: 2, maxPositionEmbeddings: 64 }
  const model = AutoModelForCausalLM.fromConfig(createConfig(shape))
  const path = join(folder, 'four.gguf')
  const { warnings } = await exportGguf(model, tokenizer, path, { type: 'q4_0' })
  expect(warnings.join()).toContain('blk.0.ffn_down.weight and matrices like it stay F16: their rows of 80')
  const file = await openGguf(path)
  const formats = ['token_embd', 'output', 'blk.0.ffn_up', 'blk.0.ffn_down', 'output_norm'].map((name) => file.tensor(`${name}.weight`).format)
  expect(formats).toEqual(['Q4_0', 'Q8_0', 'Q4_0', 'F16', 'F32'])
  await file.close()
  model.dispose()
})
