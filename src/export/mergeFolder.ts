import { join, resolve } from 'node:path'
import type { z } from 'zod'
import { AutoPeftModelForCausalLM, mergeAndUnload } from '../adapters/index.ts'
import { ConfigError } from '../errors.ts'
import { perplexityOfFiles } from '../eval/index.ts'
import { fillFolder, readJsonObject } from '../files/index.ts'
import { AutoModelForCausalLM, weightBytes, type CausalLanguageModel } from '../models/index.ts'
import { givenOptions, parseOptions, type OptionsOf } from '../options.ts'
import { Tokenizer } from '../tokenizers/index.ts'
import { mergeSchema } from './options.ts'

/** What `mergeFolder` wrote, and perplexity before and after where a text was given. */
export interface MergeReport {
  output: string
  parameters: number
  /** Of all weights, as saved. */
  byteLength: number
  bitsPerWeight: number
  /** On evalFile: the base alone, the adapter beside it, and merged into it. */
  perplexity?: { base: number, adapter: number, merged: number }
}

type Arguments = z.output<typeof mergeSchema>

async function findTokenizer({ adapter, tokenizer }: Arguments, base: string): Promise<Tokenizer> {
  if (tokenizer !== undefined) return Tokenizer.fromPretrained(tokenizer)
  return Tokenizer.fromPretrained(adapter).catch(() => Tokenizer.fromPretrained(base))
}

/** Puts an adapter into its base model, writes that as an ordinary model folder and measures what the merge does (PEFT's merge_and_unload). */
export async function mergeFolder(options: OptionsOf<typeof mergeSchema>): Promise<MergeReport> {
  givenOptions('mergeFolder', options, "adapter: './adapter', output: './merged'")
  const args = parseOptions(mergeSchema, options, 'merge')
  const { adapter, output, quantize, quantized, dtype, device, evalFile, maxLength } = args
  const named = (await readJsonObject(join(adapter, 'adapter_config.json')))['base_model_name_or_path']
  const base = args.model ?? (typeof named === 'string' ? named : undefined)
  if (base === undefined) throw new ConfigError(`${join(adapter, 'adapter_config.json')}: base_model_name_or_path is missing; pass model`)
  for (const folder of [adapter, base]) if (resolve(output) === resolve(folder)) throw new ConfigError(`output: expected another folder than ${folder}, which would be lost`)
  const tokenizer = await findTokenizer(args, base)
  const measure = async (model: CausalLanguageModel): Promise<number> =>
    evalFile === undefined ? NaN : (await perplexityOfFiles(model, tokenizer, evalFile, maxLength === undefined ? {} : { maxLength })).perplexity
  const loading = { dtype, device, ...(quantize === undefined ? {} : { quantize }) }
  let alone = NaN
  if (evalFile !== undefined) {
    // PiSSA changes the base, so it is measured by itself.
    const plain = await AutoModelForCausalLM.fromPretrained(base, loading)
    try {
      alone = await measure(plain)
    } finally {
      plain.dispose()
    }
  }
  const model = await AutoPeftModelForCausalLM.fromPretrained(adapter, { baseModel: base, ...loading })
  try {
    const beside = await measure(model)
    mergeAndUnload(model, quantized === undefined ? {} : { quantized })
    const merged = await measure(model)
    await fillFolder(output, async (target) => {
      await model.savePretrained(target)
      await tokenizer.savePretrained(target)
    })
    const [parameters, byteLength] = [model.numParameters(), weightBytes(model)]
    return { output, parameters, byteLength, bitsPerWeight: 8 * byteLength / parameters, ...(evalFile === undefined ? {} : { perplexity: { base: alone, adapter: beside, merged } }) }
  } finally {
    model.dispose()
  }
}
