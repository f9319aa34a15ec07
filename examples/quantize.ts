// Writes a model in fewer bits, for anneal and transformers (nf4, int8, GPTQ's int4) and for llama.cpp (GGUF), and measures what each costs.
// Runs after the quickstart: npx tsx examples/quantize.ts. Its model of 15.8 MB shrank to 5.9 (nf4), 7.2 (int8), 6.2 (int4) and, as GGUF, 8.0 (bf16), 5.0
// (q8_0) and 3.9 MB (q4_0): this task is easy enough that nf4 and int4 have 77 of 100 held-out questions right, and all others 78, as before.
import { stat } from 'node:fs/promises'
import { AutoModelForCausalLM, exportModel, loadGguf, quantizeFolder, Tokenizer } from 'anneal'
import type { CausalLanguageModel } from 'anneal'
import { percent, questions, rightAnswers, size } from './shared.ts'

const [model, outputDir] = ['anneal-quickstart/tuned', 'anneal-quantized']
const heldOut = questions('anneal-quickstart/held-out.jsonl').slice(0, size(100, 10))
const tokenizer = await Tokenizer.fromPretrained(model)

async function tell(name: string, bytes: number, loaded: CausalLanguageModel): Promise<void> {
  console.log(`${name.padEnd(20)} ${(bytes / 1e6).toFixed(2).padStart(6)} MB, right answers ${percent(await rightAnswers(loaded, tokenizer, heldOut))}`)
  loaded.dispose()
}
await tell('float32', (await stat(`${model}/model.safetensors`)).size, await AutoModelForCausalLM.fromPretrained(model))

// Rounding to nearest needs no data; GPTQ passes the errors of each column on to those that follow, and calibrates on text.
const calibration = { method: 'gptq', calibrationFiles: 'anneal-quickstart/instructions.jsonl', calibrationSamples: size(64, 4), calibrationLength: 256 } as const
for (const [name, options] of [['nf4', { format: 'nf4' }], ['int8', { format: 'int8' }], ['int4', { format: 'int4', block: 16 }], ['int4-gptq', { format: 'int4', block: 16, ...calibration }]] as const) {
  const output = `${outputDir}/${name}`
  await quantizeFolder({ model, output, ...options })
  await tell(name, (await stat(`${output}/model.safetensors`)).size, await AutoModelForCausalLM.fromPretrained(output))
}

// exportModel() reads each file again and compares it with the source on held-out text.
for (const type of ['bf16', 'q8_0', 'q4_0'] as const) {
  const { output, byteLength, agreement } = await exportModel({ model, output: `${outputDir}/${type}.gguf`, type })
  await tell(`GGUF ${type}`, byteLength, (await loadGguf(output)).model)
  console.log(`${' '.repeat(20)} the same next token after ${percent(agreement!.top1)} of a text, KL ${agreement!.kl.toFixed(4)}`)
}
