import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { DataError } from '../errors.ts'
import { replaceDirectory } from '../files/atomic.ts'
import { makeFolder } from '../files/filesystem.ts'
import { Tokenizer } from '../tokenizers/tokenizer.ts'
import { tokenizeConversation } from '../tokenizers/conversation.ts'
import { fingerprintOf } from './cache.ts'
import type { Tokenization } from './examples.ts'
import type { TextTokenizer, TokenizeConversation } from './types.ts'
import type { TokenizerRecipe } from './workers.ts'

/** A tokenizer with the function that renders conversations for it: the one given, or that of anneal's own Tokenizer. */
export function tokenizationOf<T extends TextTokenizer>(tokenizer: T, render?: TokenizeConversation<T>): Tokenization {
  if (render) return { tokenizer, tokenizeConversation: (messages, options) => render(tokenizer, messages, options) }
  if (tokenizer instanceof Tokenizer) return { tokenizer, tokenizeConversation: (messages, options) => tokenizeConversation(tokenizer, messages, options) }
  return { tokenizer, tokenizeConversation: () => { throw new DataError('the rows are conversations; give tokenizeConversation, or a Tokenizer of anneal with a chat template') } }
}

/** What a worker thread makes its tokenizer with: the tokenizer of a folder. */
export async function pretrainedTokenization(folder: string): Promise<Tokenization> {
  return tokenizationOf(await Tokenizer.fromPretrained(folder))
}

const probe = 'The quick brown fox\tjumps over 12,345 lazy dogs — naïve Straße, 日本語, 🦊 <|im_end|></s>\n\n  def f(x): return x**2'

/** Names a tokenizer by its files, by its own fingerprint, or by what it makes of a probe text. */
export function tokenizerFingerprint(tokenizer: TextTokenizer): string {
  if (tokenizer instanceof Tokenizer) return fingerprintOf({ json: tokenizer.toJSON(), config: tokenizer.config })
  return tokenizer.fingerprint ?? fingerprintOf({
    ids: tokenizer.encode(probe), bos: tokenizer.bosTokenId, eos: tokenizer.eosTokenId, vocabSize: tokenizer.vocabSize,
  })
}

/** Saves anneal's Tokenizer in the cache folder, once, and says how a worker loads it; undefined for other tokenizers. */
export async function workerRecipe(tokenizer: TextTokenizer, cacheDir: string): Promise<TokenizerRecipe | undefined> {
  if (!(tokenizer instanceof Tokenizer)) return undefined
  const folder = join(cacheDir, `tokenizer-${tokenizerFingerprint(tokenizer).slice(0, 32)}`)
  const known = await stat(folder).catch(() => undefined)
  if (!known) {
    await makeFolder(cacheDir)
    await replaceDirectory(folder, (target) => tokenizer.savePretrained(target))
  }
  return { module: './tokenization.js', factory: 'pretrainedTokenization', args: [folder] }
}
