import { access, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { during } from '../activity.ts'
import { AnnealError, ConfigError } from '../errors.ts'
import { decodeUtf8, fillFolder, openCheckpoint, readError } from '../files/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel, type ModelDtype } from '../models/index.ts'
import { givenOptions, parseOptions } from '../options.ts'
import type { DType } from '../tensor/index.ts'
import { Tokenizer } from '../tokenizers/index.ts'
import { compareLogits, heldOutLogits, type Agreement } from './compare.ts'
import { exportGguf } from './exportGguf.ts'
import { exportHuggingFace } from './exportHuggingFace.ts'
import { loadGguf } from './gguf/load.ts'
import type { GgufType } from './gguf/tensors.ts'
import { heldOutText } from './heldOut.ts'
import { exportSchema, type ExportOptions } from './options.ts'

/** What a type that only rounds must reach: share of equal most likely tokens, and mean KL in nats. */
const limits: Readonly<Record<GgufType, { top1: number, kl: number }>> = {
  f32: { top1: 0.99, kl: 1e-4 }, f16: { top1: 0.98, kl: 1e-3 }, bf16: { top1: 0.95, kl: 1e-2 }, q8_0: { top1: 0, kl: Infinity }, q4_0: { top1: 0, kl: Infinity },
}

/** What `exportModel` wrote, and how it compares with its source. */
export interface ExportReport {
  readonly output: string
  readonly parameters: number
  readonly byteLength: number
  /** Of everything in the file, per parameter. */
  readonly bitsPerWeight: number
  readonly warnings: readonly string[]
  /** Source and result on held-out tokens; undefined with `verify: false`. */
  readonly agreement: Agreement | undefined
  /** Whether the result's tokenizer cuts the held-out text as the source's; undefined where it was not compared. */
  readonly sameTokens: boolean | undefined
}

type Options = ReturnType<typeof parse>
const parse = (options: ExportOptions) => parseOptions(exportSchema, options, 'export options')

const exists = (path: string): Promise<boolean> => access(path).then(() => true, () => false)

async function readSource({ model: folder, dtype, device }: Options): Promise<CausalLanguageModel> {
  if (!await exists(join(folder, 'config.json')) && await exists(join(folder, 'adapter_config.json'))) {
    throw new ConfigError(`${folder}: expected a whole model to export, got an adapter; merge it into its base model first: anneal merge`)
  }
  return AutoModelForCausalLM.fromPretrained(folder, { dtype, device })
}

/** The tokens to compare on. */
async function heldOutIds({ evalFile, evalTokens }: Options, tokenizer: Tokenizer): Promise<{ text: string, ids: number[] }> {
  const text = evalFile === undefined ? heldOutText
    : decodeUtf8(await readFile(evalFile).catch((error: unknown) => { throw readError(error, evalFile) }), evalFile)
  return { text, ids: tokenizer.encode(text, { allowSpecial: false }).slice(0, evalTokens) }
}

const saveDtypes: Partial<Record<GgufType, DType>> = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' }

/** Writes the result; returns what there is to know about it. */
async function write(model: CausalLanguageModel, tokenizer: Tokenizer, { output, format, type, name, preTokenizer }: Options): Promise<{ byteLength: number, warnings: readonly string[] }> {
  if (format === 'gguf') {
    if (await stat(output).then((info) => info.isDirectory(), () => false)) throw new ConfigError(`output: expected a file such as ${join(output, `model-${type}.gguf`)}, got the folder ${output}`)
    return exportGguf(model, tokenizer, output, { type, preTokenizer, ...(name === undefined ? {} : { name }) })
  }
  const dtype = saveDtypes[type] ?? (() => { throw new ConfigError(`type: expected f32, f16 or bf16 for a Hugging Face folder, got ${type}; write a GGUF file, or quantise the model with anneal quantize`) })()
  await fillFolder(output, (folder) => exportHuggingFace(model, tokenizer, folder, { dtype }))
  const weights = await openCheckpoint(output)
  await weights.close()
  return { byteLength: weights.files.reduce((sum, file) => sum + file.byteLength, 0), warnings: [] }
}

/** The result as others will read it. */
async function readResult({ output, format, device }: Options, dtype: ModelDtype): Promise<{ model: CausalLanguageModel, tokenizer: Tokenizer | undefined }> {
  if (format === 'gguf') return loadGguf(output, { dtype, device })
  return { model: await AutoModelForCausalLM.fromPretrained(output, { dtype, device }), tokenizer: await Tokenizer.fromPretrained(output) }
}

function requireAgreement({ output, type, minAgreement }: Options, { top1, kl, tokens }: Agreement): void {
  const limit = minAgreement === undefined ? limits[type] : { top1: minAgreement, kl: Infinity }
  // Of a short text one token alone may lie above the share: two nearly equal logits change places by rounding.
  const allowed = minAgreement === undefined ? Math.max(1, (1 - limit.top1) * tokens) : (1 - minAgreement) * tokens
  if ((1 - top1) * tokens <= allowed + 1e-9 && kl <= limit.kl) return
  throw new AnnealError('ERR_EXPORT', `${output}: expected the same most likely token as the source after ${(100 * limit.top1).toFixed(1)} % of ${tokens} tokens and a mean KL of at most ${limit.kl}, `
    + `got ${(100 * top1).toFixed(1)} % and ${kl.toPrecision(3)}; the file is kept for inspection, do not use it`)
}

/**
 * Exports a model folder, then reads the result again and compares it with the source on held-out tokens. Only one of the two models is in memory at
 * a time. Throws AnnealError with code ERR_EXPORT where they differ by more than the type explains.
 */
export async function exportModel(options: ExportOptions): Promise<ExportReport> {
  givenOptions('exportModel', options, "model: './model', output: 'model.gguf'")
  const own = parse(options)
  const tokenizer = await Tokenizer.fromPretrained(own.tokenizer ?? own.model)
  const heldOut = own.verify ? await heldOutIds(own, tokenizer) : undefined
  const source = await readSource(own)
  let written, before, dtype: DType
  const parameters = source.numParameters()
  try {
    dtype = source.dtype
    written = await during({ what: `writing ${own.output}` }, () => write(source, tokenizer, own))
    before = heldOut && await heldOutLogits(source, heldOut.ids)
  } finally {
    source.dispose()
  }
  const report = { output: own.output, parameters, ...written, bitsPerWeight: (8 * written.byteLength) / parameters }
  if (!heldOut || !before) return { ...report, agreement: undefined, sameTokens: undefined }

  const result = await readResult(own, dtype as ModelDtype)
  try {
    const agreement = compareLogits(before, await during({ what: `comparing ${own.output} with its source`, kept: () => `${own.output} is written, but not compared` }, () => heldOutLogits(result.model, heldOut.ids)))
    const copied = result.tokenizer?.encode(heldOut.text, { allowSpecial: false }).slice(0, own.evalTokens)
    const sameTokens = copied && copied.join() === heldOut.ids.join()
    requireAgreement(own, agreement)
    return { ...report, agreement, sameTokens }
  } finally {
    result.model.dispose()
  }
}
