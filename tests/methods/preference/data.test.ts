// Proves that preference rows become the prompts and completions that TRL makes of them, and that log-probabilities are of exactly their tokens.
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { extractPrompt, loadPreferences, preferenceKinds, PreferenceTokens, readPreference, tokenizationOf, truncated, type ChatMessage, type Content } from '../../../src/data/index.ts'
import { collateCompletions, withPrompts } from '../../../src/methods/preference/collate.ts'
import { agreementWeights, completionLogps } from '../../../src/methods/preference/logps.ts'
import { ktoLoss } from '../../../src/methods/preference/losses/index.ts'
import { updatedMean } from '../../../src/methods/preference/losses/kto.ts'
import { mul, sub } from '../../../src/ops/index.ts'
import { Tensor } from '../../../src/tensor/index.ts'
import { AutoModelForCausalLM, disableDropout } from '../../../src/models/index.ts'
import { temporaryFolder } from '../../files/helpers.ts'
import { relative, tinyModel } from '../../train/support.ts'
import { makeTokenizer } from '../support.ts'

interface Recorded {
  prompts: { chosen: Content, rejected: Content, expected: { prompt: Content, chosen: Content, rejected: Content } }[]
  beta: number
  bco: { chosen: number[], rejected: number[], ref_chosen: number[], ref_rejected: number[], losses: number[], delta: number }[]
}
const recorded = JSON.parse(readFileSync(new URL('../../recorded/preference/trl.json', import.meta.url), 'utf8')) as Recorded

test.each(recorded.prompts)('the prompt of $chosen and $rejected is the one TRL extracts', ({ chosen, rejected, expected }) => {
  expect(extractPrompt(chosen, rejected)).toEqual(expected)
})

test('a prompt ends at whole characters, and may be empty', () => {
  expect(extractPrompt('so 😀', 'so 😁')).toEqual({ prompt: 'so', chosen: ' 😀', rejected: ' 😁' })
  expect(extractPrompt('yes', 'no')).toEqual({ prompt: '', chosen: 'yes', rejected: 'no' })
  // TRL looks at the last character of the text here.
  expect(extractPrompt('yes ', 'no')).toEqual({ prompt: '', chosen: 'yes ', rejected: 'no' })
})

test('BCO follows its running mean as TRL does', async () => {
  let [mean, count] = [Tensor.zeros([], { dtype: 'float64' }), 0]
  for (const { chosen, rejected, ref_chosen: refChosen, ref_rejected: refRejected, losses, delta } of recorded.bco) {
    const vector = (values: number[]): Tensor => Tensor.from(values, [values.length], { dtype: 'float64' })
    const [logps, reference] = [vector([...chosen, ...rejected]), vector([...refChosen, ...refRejected])]
    mean = updatedMean(mean, count, mul(sub(logps, reference), recorded.beta))
    count += logps.size
    // TRL rounds the mean of a batch to float32.
    expect(Math.abs(await mean.item() - delta)).toBeLessThan(1e-8)
    const result = ktoLoss({ logps, reference, labels: [...chosen.map(() => true), ...rejected.map(() => false)], baseline: mean }, { lossType: 'bco', beta: recorded.beta, desirableWeight: 1, undesirableWeight: 1 })
    expect(relative(await result.losses.toArray(), losses)).toBeLessThan(1e-8)
  }
})

test('prompts and completions are tokenized together; texts end with EOS, conversations as their template writes them', async () => {
  const tokenizer = await makeTokenizer(temporaryFolder())
  const tokens = new PreferenceTokens(tokenizationOf(tokenizer), { maxLength: 40, truncationMode: 'keep_start' })
  const text = tokens.pair({ prompt: 'the cat sees', chosen: ' the moon.', rejected: ' a river.', margin: 0.5 }, 'row')
  if (typeof text === 'string') throw new Error(text)
  expect([...text.chosen.inputIds]).toEqual([...tokenizer.encode('the cat sees the moon.'), tokenizer.eosTokenId])
  expect([text.chosen.promptLength, text.margin]).toEqual([tokenizer.encode('the cat sees').length, 0.5])
  const prompt: ChatMessage[] = [{ role: 'user', content: 'What?' }]
  const chat = tokens.pair({ prompt, chosen: [{ role: 'assistant', content: 'a dog' }], rejected: [{ role: 'assistant', content: '<|im_end|>' }], margin: undefined }, 'row')
  if (typeof chat === 'string') throw new Error(chat)
  expect(tokenizer.decode([...chat.chosen.inputIds], { skipSpecialTokens: false })).toBe('<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\na dog<|im_end|>\n')
  expect(tokenizer.decode([...chat.chosen.inputIds.subarray(chat.chosen.promptLength)], { skipSpecialTokens: false })).toBe('a dog<|im_end|>\n')
  expect([...chat.rejected.inputIds].filter((id) => id === tokenizer.eosTokenId), 'a spelled control token stays text').toHaveLength(2)
})

test('implicit prompts of conversations are told, and two without a common message refused', () => {
  const read = (chosen: unknown, rejected: unknown) => readPreference({ row: { chosen, rejected }, file: 'rows', record: 0 })
  const turn = (role: string, content: string) => ({ role, content })
  expect(read([turn('user', 'a'), turn('assistant', 'b')], [turn('user', 'a'), turn('assistant', 'c')])).toMatchObject({ prompt: [turn('user', 'a')], chosen: [turn('assistant', 'b')] })
  expect(() => read([turn('user', 'a'), turn('assistant', 'b')], [turn('user', 'x'), turn('assistant', 'c')])).toThrow('rows: row 1: chosen and rejected have no first message in common')
})

test('truncation keeps either end', () => {
  const [prompt, completion] = [Int32Array.of(1, 2, 3), Int32Array.of(4, 5, 6, 7)]
  expect(truncated(prompt, completion, { maxLength: 5, truncationMode: 'keep_start' })).toEqual({ inputIds: Int32Array.of(1, 2, 3, 4, 5), promptLength: 3 })
  expect(truncated(prompt, completion, { maxLength: 5, truncationMode: 'keep_end' })).toEqual({ inputIds: Int32Array.of(3, 4, 5, 6, 7), promptLength: 1 })
  expect(truncated(prompt, completion, { maxLength: 2, truncationMode: 'keep_end' })).toEqual({ inputIds: Int32Array.of(6, 7), promptLength: 0 })
  expect(truncated(prompt, completion, { maxLength: null, truncationMode: 'keep_start' }).inputIds).toHaveLength(7)
})

test('held-out rows are no training rows, the same for the same seed', async () => {
  const tokenizer = await makeTokenizer(temporaryFolder())
  const rows = Array.from({ length: 20 }, (_, i) => ({ prompt: `row ${i}`, chosen: ' yes', rejected: ' no' }))
  const load = (seed: number) => loadPreferences({ tokenizer, rows, seed, evalSplit: 0.25, maxLength: 64, truncationMode: 'keep_start', onBadRow: 'error', make: preferenceKinds.pair, tokensOf: ({ chosen }) => chosen.inputIds.length })
  const [a, b, c] = [await load(1), await load(1), await load(2)]
  expect([a.train.length, a.eval!.length]).toEqual([15, 5])
  expect(a.eval).toEqual(b.eval)
  expect(a.fingerprint).toBe(b.fingerprint)
  expect(c.eval).not.toEqual(a.eval)
  const seen = new Set(a.train.map(({ chosen }) => chosen.inputIds.join()))
  expect(a.eval!.some(({ chosen }) => seen.has(chosen.inputIds.join()))).toBe(false)
})

test('log-probabilities are of the completions alone, WPO weights as defined by whole logits', async () => {
  const model = tinyModel({ seed: 4 })
  const examples = [{ inputIds: Int32Array.of(5, 6, 7, 8, 9), promptLength: 2 }, { inputIds: Int32Array.of(11, 12, 13), promptLength: 0 }, { inputIds: Int32Array.of(1, 2, 3, 4), promptLength: 3 }]
  const batch = collateCompletions(examples)
  const policy = completionLogps(model, batch)
  const [sums, weights] = [await policy.rows.sum(policy.logprob).toArray(), await agreementWeights(model, batch, policy).toArray()]
  const logits = await model.forward({ inputIds: examples.map(({ inputIds }) => inputIds) }).logits!.toArray()
  const vocabulary = logits.length / 12
  let begin = 0
  examples.forEach(({ inputIds, promptLength }, i) => {
    let [sum, aligned, count] = [0, 0, 0]
    for (let t = Math.max(1, promptLength); t < inputIds.length; t++) {
      const row = logits.slice((begin + t - 1) * vocabulary, (begin + t) * vocabulary)
      const total = row.reduce((a, z) => a + Math.exp(z), 0)
      const logp = row[inputIds[t]!]! - Math.log(total)
      sum += logp
      aligned += logp - Math.log(row.reduce((a, z) => a + (Math.exp(z) / total) ** 2, 0))
      count++
    }
    expect(Math.abs(sums[i]! - sum)).toBeLessThan(1e-4)
    expect(Math.abs(weights[i]! - Math.exp(aligned / count))).toBeLessThan(1e-4)
    begin += inputIds.length
  })
  const { whole, labels } = withPrompts(batch)
  expect([whole.begins, whole.lengths, labels === batch.inputIds]).toEqual([[0, 5, 8], [4, 2, 3], true])
  model.dispose()
})

test('disabled dropout computes without, and is saved as it was', async () => {
  const model = tinyModel({ dropout: 0.5 })
  const run = async (): Promise<number[]> => model.train().logprobs({ inputIds: [[1, 2, 3, 4]] }).logprob.toArray()
  expect(await run()).not.toEqual(await run())
  disableDropout(model)
  expect(await run()).toEqual(await run())
  const folder = temporaryFolder()
  await model.savePretrained(folder)
  const again = await AutoModelForCausalLM.fromPretrained(folder)
  expect(again.config).toMatchObject({ residPdrop: 0.5, embdPdrop: 0.5, attentionDropout: 0.5 })
  model.dispose()
  again.dispose()
})
