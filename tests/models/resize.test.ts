// Proves that a model keeps what it knows when its vocabulary grows or shrinks, and that tied weights stay tied.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { AutoModelForCausalLM } from '../../src/models/index.ts'
import { backward, scope } from '../../src/tensor/index.ts'
import { distance, folderOf } from './recorded.ts'

let root: string
beforeAll(async () => { root = await mkdtemp(join(tmpdir(), 'anneal-resize-')) })
afterAll(() => rm(root, { recursive: true, force: true }))

const inputIds = [[5, 9, 30], [12]]

test.each([['llama2', 160], ['qwen2', 171], ['gpt2', 163]] as const)('%s', async (family, vocabulary) => {
  using model = await AutoModelForCausalLM.fromPretrained(folderOf(family))
  const before = await model.forward({ inputIds }).logits!.data() as Float32Array
  const names = [...model.namedParameters()].map(([name]) => name)
  model.resizeTokenEmbeddings(vocabulary + 5)
  const after = await model.forward({ inputIds }).logits!.data() as Float32Array
  for (let t = 0; t < 4; t++) {
    const row = before.subarray(t * vocabulary, (t + 1) * vocabulary)
    const [kept, added] = [after.subarray(t * (vocabulary + 5)).subarray(0, vocabulary), after.subarray(t * (vocabulary + 5)).subarray(vocabulary, vocabulary + 5)]
    expect(distance(kept, row)).toBeLessThan(1e-6)
    expect(distance(added, Array<number>(5).fill(row.reduce((a, b) => a + b, 0) / vocabulary))).toBeLessThan(1e-4)
  }
  expect([...model.namedParameters()].map(([name]) => name)).toEqual(names)
  scope(() => { backward(model.forward({ inputIds: [[5, vocabulary + 4]], labels: [[5, vocabulary + 4]] }).loss!) })
  expect(model.getParameter(family === 'gpt2' ? 'transformer.wte.weight' : 'model.embed_tokens.weight').grad!.shape[0]).toBe(vocabulary + 5)
  await model.savePretrained(join(root, family))
  using again = await AutoModelForCausalLM.fromPretrained(join(root, family))
  expect(again.config.vocabSize).toBe(vocabulary + 5)
  expect(await again.forward({ inputIds }).logits!.data()).toEqual(after)
  model.resizeTokenEmbeddings(100)
  expect(model.forward({ inputIds }).logits!.shape).toEqual([4, 100])
  expect(() => { model.resizeTokenEmbeddings(0.5) }).toThrow('resizeTokenEmbeddings: expected a whole number of 1 or more, got 0.5')
})
