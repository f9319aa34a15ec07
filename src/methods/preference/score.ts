import { loadAdapter } from '../../adapters/index.ts'
import { DataError } from '../../errors.ts'
import { openReader, expandFiles, placeOf, readRow, tokenizationOf, type ChatMessage, type Content } from '../../data/index.ts'
import { Classifier } from '../../models/index.ts'
import { givenOptions, parseOptions } from '../../options.ts'
import { noGrad, scope } from '../../tensor/index.ts'
import { Tokenizer } from '../../tokenizers/index.ts'
import { scoreSchema, type ScoreOptions } from './scoreOptions.ts'

/** Logits of each sequence, in the given order. Batches of up to `maxTokensPerBatch` tokens; a score does not depend on its batch. */
export async function scoreSequences(classifier: Classifier, sequences: readonly ArrayLike<number>[], options: { maxTokensPerBatch?: number } = {}): Promise<number[][]> {
  const { maxTokensPerBatch = 4096 } = givenOptions('scoreSequences', options, 'maxTokensPerBatch: 4096')
  const wasTraining = classifier.model.training
  classifier.model.eval()
  try {
    const scores: number[][] = []
    for (let begin = 0; begin < sequences.length;) {
      let [end, tokens] = [begin, 0]
      while (end < sequences.length && (end === begin || tokens + sequences[end]!.length <= maxTokensPerBatch)) tokens += sequences[end++]!.length
      const inputIds = sequences.slice(begin, end).map((one) => Int32Array.from(one))
      const values = await scope(() => noGrad(() => ({ read: classifier.forward({ inputIds }).toArray() }))).read
      for (let i = 0; i < end - begin; i++) scores.push(values.slice(i * classifier.numLabels, (i + 1) * classifier.numLabels))
      begin = end
    }
    return scores
  } finally {
    classifier.model.train(wasTraining)
  }
}

/** What a reward model makes of a row: one score, or those of several labels; null where the text is too long. */
export type Score = number | Record<string, number> | null
/** What a reward model says of a row: one score, or those of a pair. */
export type ScoredRow = { score: Score } | { chosen: Score, rejected: Score }

/** Tokens of a text as reward training has them: texts end with EOS, conversations as their template writes them. */
function rewardTokens(tokenizer: Tokenizer, prompt: Content | undefined, completion: Content): number[] {
  if (typeof completion === 'string') {
    const ids = tokenizer.encode(((prompt ?? '') as string) + completion)
    if (tokenizer.eosTokenId !== undefined && ids.at(-1) !== tokenizer.eosTokenId) ids.push(tokenizer.eosTokenId)
    return ids
  }
  const messages = [...((prompt ?? []) as ChatMessage[]), ...completion]
  return Array.from(tokenizationOf(tokenizer).tokenizeConversation(messages, { assistantMask: false }).inputIds)
}

/** Scores the rows of files with a reward model, in their order. Preference rows have two scores. */
export async function* score(options: ScoreOptions): AsyncGenerator<ScoredRow> {
  givenOptions('score', options, "model: './reward', files: 'data.jsonl'")
  const args = parseOptions(scoreSchema, options, 'score')
  const tokenizer = await Tokenizer.fromPretrained(args.tokenizer ?? args.adapterPath ?? args.model)
  const classifier = await Classifier.fromPretrained(args.model, { dtype: args.dtype, device: args.device })
  try {
    if (args.adapterPath !== undefined) await loadAdapter(classifier.model, args.adapterPath, { baseModel: args.model })
    const limit = Math.min(args.maxLength ?? Infinity, classifier.model.config.maxPositionEmbeddings)
    const formats = args.columns ? { columns: args.columns } : {}
    let pending: number[][][] = []
    const flush = async function* (): AsyncGenerator<ScoredRow> {
      const kept = pending.flat().filter((ids) => ids.length <= limit)
      const logits = await scoreSequences(classifier, kept, args)
      let next = 0
      const scoreOf = (ids: number[]): Score => (ids.length > limit ? null : named(classifier, logits[next++]!))
      for (const row of pending) {
        const scores = row.map(scoreOf)
        yield scores.length === 2 ? { chosen: scores[0]!, rejected: scores[1]! } : { score: scores[0]! }
      }
      pending = []
    }
    for (const file of await expandFiles(args.files)) {
      for await (const source of openReader(file).rows()) {
        const row = readRow(source, formats)
        switch (row.kind) {
          case 'text': pending.push([rewardTokens(tokenizer, undefined, row.text)]); break
          case 'messages': pending.push([rewardTokens(tokenizer, undefined, row.messages)]); break
          case 'promptCompletion': case 'unpairedPreference': pending.push([rewardTokens(tokenizer, row.prompt, row.completion)]); break
          case 'preference': pending.push([rewardTokens(tokenizer, row.prompt, row.chosen), rewardTokens(tokenizer, row.prompt, row.rejected)]); break
          case 'prompt': throw new DataError(`${placeOf(source)}: the row is a prompt without a completion; there is nothing to score`)
        }
        if (pending.length >= 64) yield* flush()
      }
    }
    yield* flush()
  } finally {
    classifier.dispose()
  }
}

const named = ({ labels }: Classifier, logits: readonly number[]): Score => (labels.length === 1 ? logits[0]! : Object.fromEntries(labels.map((label, i) => [label, logits[i]!])))
