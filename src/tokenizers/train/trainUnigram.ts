import { TokenizerError } from '../../errors.ts'
import { givenOptions } from '../../options.ts'
import { byteToken } from '../models/bpe.ts'
import { Tokenizer } from '../tokenizer.ts'
import { stringifyTokenizer } from '../tokenizerJSON.ts'
import { Turns } from '../../turns.ts'
import { countWords, type Texts } from './countWords.ts'
import { checkTrainOptions, specialAddedTokens, wordCutter, type TrainOptions } from './options.ts'
import { seedPieces } from './seedPieces.ts'
import { unigramSpecialTokens } from './specialTokens.ts'
import { digamma, UnigramLattice } from './unigramModel.ts'

/** What `trainUnigram` takes; names are those of tokenizers' UnigramTrainer. */
export interface TrainUnigramOptions extends TrainOptions {
  /** Must be among the special tokens. Default '<unk>'. */
  unkToken?: string
  initialAlphabet?: readonly string[]
  /** Longest piece, in UTF-16 code units. Default 16. */
  maxPieceLength?: number
  /** Pieces to begin with. Default 1,000,000. */
  seedSize?: number
  /** Share of the pieces that survives each pruning. Default 0.75. */
  shrinkingFactor?: number
  /** EM steps between prunings. Default 2. */
  numSubIterations?: number
  /** Add a token for each byte, so that no character is unknown. Default true. */
  byteFallback?: boolean
}

/** Pieces expected less often than this after an EM step are dropped. */
const rare = 0.5

/** Trains a unigram language model of pieces as SentencePiece does (https://arxiv.org/abs/1804.10959); default: 8,000 tokens and Metaspace. */
export async function trainUnigram(texts: Texts, options: TrainUnigramOptions = {}): Promise<Tokenizer> {
  givenOptions('trainUnigram', options, 'vocabSize: 8000')
  const { vocabSize = 8000, specialTokens = unigramSpecialTokens, unkToken = '<unk>', byteFallback = true } = options
  checkTrainOptions(vocabSize, specialTokens)
  const { maxPieceLength = 16, shrinkingFactor = 0.75, numSubIterations = 2, seedSize = 1_000_000 } = options
  if (!specialTokens.includes(unkToken)) throw new TokenizerError(`tokenizer training: specialTokens must contain the unknown token ${JSON.stringify(unkToken)}`)
  if (!(shrinkingFactor > 0 && shrinkingFactor < 1)) throw new TokenizerError(`tokenizer training: shrinkingFactor must be between 0 and 1, got ${shrinkingFactor}`)
  const metaspace = { type: 'Metaspace', replacement: '\u2581', prepend_scheme: 'always', split: true }
  const normalizer = options.normalizer !== undefined ? options.normalizer : { type: 'NFKC' }
  const preTokenizer = options.preTokenizer !== undefined ? options.preTokenizer : metaspace
  const { cut, byteLevel } = wordCutter(normalizer, preTokenizer)
  if (byteLevel) throw new TokenizerError('tokenizer training: Unigram works on characters; use Metaspace rather than ByteLevel, or train BPE')
  const turns = new Turns(options.signal)
  const words = await countWords(texts, cut, turns)
  words.delete('')
  const bytes = byteFallback ? Array.from({ length: 256 }, (_, byte) => byteToken(byte)) : []
  const required = requiredCharacters(words, options.initialAlphabet ?? [])
  const wanted = vocabSize - specialTokens.length - bytes.length
  if (required.size > wanted) {
    throw new TokenizerError(`tokenizer training: vocabSize ${vocabSize} leaves ${wanted} pieces beside special and byte tokens, but the text has ${required.size} different characters; raise it`)
  }
  const trainer = new UnigramTrainer(words, required, wanted, shrinkingFactor, numSubIterations, turns)
  await trainer.seed(maxPieceLength, seedSize)
  const pieces = await trainer.train()
  const reserved = [...specialTokens, ...bytes]
  const known = new Set(reserved)
  const vocab: [string, number][] = [...reserved.map((token): [string, number] => [token, 0]), ...pieces.filter(([piece]) => !known.has(piece))]
  return Tokenizer.fromJSON(stringifyTokenizer({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specialAddedTokens(specialTokens, (token) => specialTokens.indexOf(token)),
    normalizer,
    pre_tokenizer: preTokenizer,
    post_processor: null,
    decoder: { type: 'Sequence', decoders: [{ type: 'ByteFallback' }, { ...metaspace }] },
    model: { type: 'Unigram', unk_id: specialTokens.indexOf(unkToken), vocab, byte_fallback: byteFallback },
  }), { unk_token: unkToken })
}

function requiredCharacters(words: ReadonlyMap<string, number>, initial: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>()
  for (const char of initial) counts.set(char, 0)
  for (const [word, count] of words) for (const char of word) counts.set(char, (counts.get(char) ?? 0) + count)
  return counts
}

class UnigramTrainer {
  readonly #words: readonly [string, number][]
  readonly #required: ReadonlyMap<string, number>
  readonly #wanted: number
  readonly #shrinkingFactor: number
  readonly #subIterations: number
  readonly #turns: Turns
  #pieces: string[] = []
  #scores: number[] = []

  constructor(
    words: ReadonlyMap<string, number>, required: ReadonlyMap<string, number>, wanted: number,
    shrinkingFactor: number, subIterations: number, turns: Turns,
  ) {
    this.#words = [...words]
    this.#required = required
    this.#wanted = wanted
    this.#shrinkingFactor = shrinkingFactor
    this.#subIterations = subIterations
    this.#turns = turns
  }

  /** Starts with every character and the most promising substrings. */
  async seed(maxPieceLength: number, seedSize: number): Promise<void> {
    const chars = [...this.#required].filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1])
    const seeds = await this.#turns.run(seedPieces(this.#words.map(([word]) => word), maxPieceLength, Math.max(0, seedSize - chars.length)))
    const single = new Set(chars.map(([char]) => char))
    const longer = seeds.pieces.map((piece, i): [string, number] => [piece, seeds.scores[i]!]).filter(([piece]) => !single.has(piece))
    const all = [...chars, ...longer]
    const total = Math.log(all.reduce((sum, [, score]) => sum + score, 0))
    this.#pieces = all.map(([piece]) => piece)
    this.#scores = all.map(([, score]) => Math.log(score) - total)
  }

  /** Alternates EM and pruning until little more than the wanted number is left. */
  async train(): Promise<[string, number][]> {
    const target = Math.max(Math.floor(this.#wanted * 1.1), this.#required.size)
    for (;;) {
      for (let i = 0; i < this.#subIterations; i++) await this.#expectAndMaximize()
      if (this.#pieces.length <= target) break
      const before = this.#pieces.length
      await this.#prune(target)
      if (this.#pieces.length >= before) break
    }
    return this.#finish()
  }

  async #expectAndMaximize(): Promise<void> {
    const lattice = new UnigramLattice(this.#pieces, this.#scores)
    const expected = new Float64Array(this.#pieces.length)
    for (const [word, count] of this.#words) {
      lattice.expect(word, count, expected)
      if (this.#turns.due) await this.#turns.take()
    }
    const kept: number[] = []
    let sum = 0
    expected.forEach((frequency, id) => {
      if (frequency < rare) return
      kept.push(id)
      sum += frequency
    })
    const total = digamma(sum)
    this.#scores = kept.map((id) => digamma(expected[id]!) - total)
    this.#pieces = kept.map((id) => this.#pieces[id]!)
  }

  /** Drops the pieces whose loss of likelihood, were they written with others, is least. */
  async #prune(target: number): Promise<void> {
    const lattice = new UnigramLattice(this.#pieces, this.#scores)
    const used = new Float64Array(this.#pieces.length)
    let total = 0
    for (const [word, count] of this.#words) {
      for (const id of lattice.best(word)) if (id >= 0) used[id]! += count
      if (this.#turns.due) await this.#turns.take()
    }
    for (const frequency of used) total += frequency
    const logTotal = Math.log(total)
    const kept: number[] = []
    const candidates: { id: number, loss: number }[] = []
    for (let id = 0; id < this.#pieces.length; id++) {
      if (this.#turns.due) await this.#turns.take()
      const piece = this.#pieces[id]!
      if (this.#required.has(piece)) {
        kept.push(id)
        continue
      }
      if (used[id] === 0) continue
      if (lattice.best(piece).length > 1) continue
      const others = lattice.best(piece, id)
      if (others.includes(-1)) {
        kept.push(id)
        continue
      }
      // The likelihood with the piece, and with its count handed to the pieces that would replace it.
      const frequency = used[id]!
      const logTotalWithout = Math.log(total + frequency * (others.length - 1))
      const without = others.reduce((sum, other) => sum + Math.log(used[other]! + frequency) - logTotalWithout, 0)
      candidates.push({ id, loss: (frequency / total) * (Math.log(frequency) - logTotal - without) })
    }
    const size = Math.max(target, Math.floor(this.#pieces.length * this.#shrinkingFactor))
    candidates.sort((a, b) => b.loss - a.loss || a.id - b.id)
    for (const { id } of candidates.slice(0, Math.max(0, size - kept.length))) kept.push(id)
    kept.sort((a, b) => a - b)
    this.#scores = kept.map((id) => this.#scores[id]!)
    this.#pieces = kept.map((id) => this.#pieces[id]!)
  }

  /** Every required character, then the best of the rest, by score. */
  #finish(): [string, number][] {
    const scores = new Map(this.#pieces.map((piece, id) => [piece, this.#scores[id]!]))
    let floor = this.#scores.reduce((low, score) => Math.min(low, score), 0)
    const out: [string, number][] = []
    for (const [char] of [...this.#required].sort((a, b) => b[1] - a[1])) {
      const score = scores.get(char)
      out.push([char, score ?? (floor -= 0.0001)])
    }
    const rest = [...scores].filter(([piece]) => !this.#required.has(piece)).sort((a, b) => b[1] - a[1])
    for (const entry of rest.slice(0, this.#wanted - out.length)) out.push(entry)
    return out.sort((a, b) => b[1] - a[1])
  }
}
