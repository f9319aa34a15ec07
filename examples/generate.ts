// Generates with a model folder in four ways: npx tsx examples/generate.ts anneal-quickstart/tuned
import { AutoModelForCausalLM, chat, generate, noGrad, stream, Tokenizer } from 'anneal'

const folder = process.argv[2] ?? 'anneal-quickstart/tuned'
const tokenizer = await Tokenizer.fromPretrained(folder)
const model = await AutoModelForCausalLM.fromPretrained(folder, { dtype: 'auto' })

// Token after token.
for await (const { text } of stream(model, tokenizer, '## Installation', { maxNewTokens: 30, doSample: true, temperature: 0.8, seed: 1 })) process.stdout.write(text)
console.log()

// Several prompts in one batch, two samples each. An answer depends on its prompt and the seed, not on the others.
const answers = await generate(model, tokenizer, ['The', 'To install this package,'], { numReturnSequences: 2, doSample: true, topP: 0.9, maxNewTokens: 20, seed: 7 })
for (const { text, finishReason } of answers) console.log(JSON.stringify(text), finishReason)

// A conversation, through the tokenizer's chat template.
const { message } = await chat(model, tokenizer, [{ role: 'user', content: 'Which of these is an animal: pink, goat, lemon?' }], { maxNewTokens: 20 })
console.log(message)

// The log-probabilities recorded while sampling are those of teacher forcing, bit for bit.
const prompt = tokenizer.encode('The')
const [sample] = await generate(model, null, prompt, { maxNewTokens: 8, doSample: true, seed: 3 })
const { logprob } = noGrad(() => model.logprobs({ inputIds: Int32Array.of(...prompt, ...sample!.tokenIds) }))
const forced = [...await logprob.data()].slice(prompt.length - 1, -1)
console.log('equal log-probabilities:', forced.every((value, i) => value === sample!.logprobs[i]))
model.dispose()
