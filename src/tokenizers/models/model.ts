/** Turns one word into token ids. */
export interface TokenModel {
  readonly type: 'BPE' | 'WordPiece' | 'WordLevel' | 'Unigram'
  /** Number of entries of the model's own vocabulary. */
  readonly size: number
  /** One more than the largest id. */
  readonly idLimit: number
  /** The id given to what the vocabulary lacks. */
  readonly unkId: number | undefined
  tokenToId(token: string): number | undefined
  idToToken(id: number): string | undefined
  /** Every entry of the vocabulary. */
  entries(): IterableIterator<[string, number]>
  /** Appends the ids of `word`. With `byteLevel` the word is raw text that stands for its UTF-8 bytes. */
  encodeWord(word: string, out: number[]): void
}
