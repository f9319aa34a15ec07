// Proves that an example is told as text with its trained parts, packed or not.
import { describe, expect, it } from 'vitest'
import { packDataset, memoryDataset } from '../../src/data/dataset.ts'
import { describeExample } from '../../src/data/describe.ts'
import { ExampleMaker } from '../../src/data/examples.ts'
import { characters } from './support.ts'

const maker = new ExampleMaker(characters())
const { tokenizer } = characters()

describe('describeExample', () => {
  it('shows prompt and completion', () => {
    const example = maker.make({ kind: 'promptCompletion', prompt: [{ role: 'user', content: 'Hi' }], completion: [{ role: 'assistant', content: 'Yo' }] }, 'x')!
    expect(describeExample(example, tokenizer)).toEqual({
      segments: [{ trained: false, sequence: 0, ids: [2, 72, 105, 1, 3], text: '<|user|>Hi<|end|><|assistant|>' }, { trained: true, sequence: 0, ids: [89, 111, 1], text: 'Yo<|end|>' }],
      tokens: 8, trainedTokens: 3, trainedShare: 3 / 8, sequences: 1,
    })
  })

  it('shows the sequences of a packed row; the first token of each is not trained', () => {
    const row = packDataset(memoryDataset([maker.make({ kind: 'text', text: 'abc' }, 'x')!, maker.make({ kind: 'text', text: 'd' }, 'x')!]), { maxLength: 8, strategy: 'bfd' }).get(0)
    expect(describeExample(row, tokenizer).segments.map(({ trained, sequence, text }) => [trained, sequence, text]))
      .toEqual([[false, 0, 'a'], [true, 0, 'bc<|eos|>'], [false, 1, 'd'], [true, 1, '<|eos|>']])
  })
})
