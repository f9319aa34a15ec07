import { access } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { z } from 'zod'
import { loadDataset } from '../data/index.ts'
import { ConfigError } from '../errors.ts'
import { perplexityOfFiles } from '../eval/index.ts'
import { fillFolder } from '../files/index.ts'
import { AutoModelForCausalLM, quantizedLayers, resolveQuantization, weightBytes, type CausalLanguageModel, type TokenArray } from '../models/index.ts'
import { headName } from '../models/quantizedHead.ts'
import { quantizedBytes } from '../models/weightBytes.ts'
import { givenOptions, parseOptions, type OptionsOf } from '../options.ts'
import { Tokenizer } from '../tokenizers/index.ts'
import { quantizeFolderSchema, type quantizeModelSchema } from './options.ts'
import { quantizeModel, type QuantizeModelOptions } from './quantizeModel.ts'

/** What `quantizeFolder` takes: model, output, format, method and calibration texts. */
export type QuantizeFolderOptions = OptionsOf<typeof quantizeFolderSchema> & Pick<QuantizeModelOptions, 'onProgress'>
type Arguments = z.output<typeof quantizeFolderSchema>

/** What `quantizeFolder` did. */
export interface QuantizationReport {
  output: string
  format: string
  /** Numbers that share a scale; undefined: a row. */
  block: number | undefined
  method: string
  /** Linear layers quantised, the head included. */
  layers: number
  /** The format of the head; undefined: it stayed as it was. */
  head: string | undefined
  parameters: number
  /** Bytes of all weights, as saved. */
  byteLength: number
  /** Of the quantised layers, scales and zero points included. */
  bitsPerWeight: number
  /** Of the whole model. */
  bitsPerParameter: number
  /** On evalFile, in full and quantised. */
  perplexity?: { before: number, after: number }
}

/** Writes a model folder with its linear layers quantised, in bitsandbytes' format for nf4 and fp4 and GPTQ's for int4 and int8 (a quantised head that they cannot hold in anneal's), and measures what that does. */
export async function quantizeFolder(options: QuantizeFolderOptions): Promise<QuantizationReport> {
  givenOptions('quantizeFolder', options, "model: './model', output: './smaller', format: 'nf4'")
  const { onProgress, ...rest } = options
  const args = parseOptions(quantizeFolderSchema, rest, 'quantize')
  const { model: folder, output, evalFile, calibrationFiles, method, dtype, device } = args
  const quantize = quantizationOf(args)
  resolveQuantization(quantize)
  if (resolve(output) === resolve(folder)) throw new ConfigError('output: expected another folder than that of the model, which would be lost')
  if (method !== 'rtn' && calibrationFiles === undefined) throw new ConfigError(`calibrationFiles: expected text, which ${method} needs, got none`)
  const tokenizer = await findTokenizer(args)
  const measure = async (model: CausalLanguageModel): Promise<number> =>
    (await perplexityOfFiles(model, tokenizer!, evalFile!, args.maxLength === undefined ? {} : { maxLength: args.maxLength })).perplexity
  const calibration = method === 'rtn' ? undefined : await calibrationOf(args, tokenizer!)
  const inFull = evalFile !== undefined || method !== 'rtn'
  let model = await AutoModelForCausalLM.fromPretrained(folder, { dtype, device, ...(inFull ? {} : { quantize }) })
  try {
    if (inFull && model.quantizationConfig) throw new ConfigError(`model: the weights of ${folder} are quantised already, as ${model.quantizationConfig.format}; start from the model before it was quantised`)
    const before = evalFile === undefined ? undefined : await measure(model)
    if (calibration) await quantizeModel(model, { ...quantize, method, dampPercent: args.dampPercent, calibration, ...(onProgress ? { onProgress } : {}) })
    else if (inFull) {
      // Read again, tensor by tensor: the weights in full and the codes never lie in memory together.
      model.dispose()
      model = await AutoModelForCausalLM.fromPretrained(folder, { dtype, device, quantize })
    }
    const after = evalFile === undefined ? undefined : await measure(model)
    await fillFolder(output, async (target) => {
      await model.savePretrained(target)
      await tokenizer?.savePretrained(target)
    })
    return { ...describe(model, args), ...(before !== undefined && after !== undefined ? { perplexity: { before, after } } : {}) }
  } finally {
    model.dispose()
  }
}

function quantizationOf({ format, block, doubleQuant, zeroPoints, skipModules, head, headBlock }: Arguments): Omit<z.output<typeof quantizeModelSchema>, 'method' | 'dampPercent'> {
  return {
    format, doubleQuant, zeroPoints, skipModules,
    ...(block === undefined ? {} : { block }), ...(head === undefined ? {} : { head }), ...(headBlock === undefined ? {} : { headBlock }),
  }
}

/** The tokenizer, which is copied; a model without one can be rounded to nearest all the same. */
async function findTokenizer({ model, tokenizer, evalFile, calibrationFiles }: Arguments): Promise<Tokenizer | undefined> {
  const needed = tokenizer !== undefined || evalFile !== undefined || calibrationFiles !== undefined
  if (!needed && !await access(join(model, 'tokenizer.json')).then(() => true, () => false)) return undefined
  return Tokenizer.fromPretrained(tokenizer ?? model)
}

async function calibrationOf({ calibrationFiles, calibrationSamples, calibrationLength, seed }: Arguments, tokenizer: Tokenizer): Promise<TokenArray[]> {
  const data = await loadDataset({ tokenizer, files: calibrationFiles!, maxLength: calibrationLength, packing: 'wrapped', shuffleDataset: true, seed, cacheDir: false })
  try {
    return Array.from({ length: Math.min(calibrationSamples, data.train.length) }, (_, i) => Int32Array.from(data.train.get(i).inputIds))
  } finally {
    data.close()
  }
}

function describe(model: CausalLanguageModel, { output, format, method }: Arguments): Omit<QuantizationReport, 'perplexity'> {
  const quantized = quantizedLayers(model)
  const layers = [...quantized.values()]
  const byteLength = weightBytes(model)
  const parameters = model.numParameters()
  const [bytes, weights] = [quantizedBytes(model), layers.reduce((sum, { frozenSize }) => sum + frozenSize, 0)]
  return { output, format, block: model.quantizationConfig?.block, method, layers: layers.length, head: quantized.get(headName)?.weight.format, parameters, byteLength, bitsPerWeight: 8 * bytes / weights, bitsPerParameter: 8 * byteLength / parameters }
}
