import { during } from '../activity.ts'
import { TokenizerError } from '../errors.ts'
import { atOnce, Turns } from '../turns.ts'
import { AddedVocabulary, type AddedToken, type AddedTokenOptions } from './addedTokens.ts'
import { renderChat, type ChatMessage, type RenderOptions } from './chatTemplate.ts'
import { tokenizeConversation, type TokenizedConversation } from './conversation.ts'
import { ByteDecodeStream, WindowDecodeStream, type DecodeStream } from './decodeStream.ts'
import { cleanUp, createDecoder, type Decoder } from './decoders.ts'
import { Fields } from './fields.ts'
import { nextCodePoint } from './characters.ts'
import { tokenBytes } from './byteLevel.ts'
import { BpeModel } from './models/bpe.ts'
import { ByteLevelWords } from './models/byteLevelWords.ts'
import type { TokenModel } from './models/model.ts'
import { UnigramModel } from './models/unigram.ts'
import { WordLevelModel } from './models/wordLevel.ts'
import { WordPieceModel } from './models/wordPiece.ts'
import { createNormalizer } from './normalizers.ts'
import { createPostProcessor, type PostProcessor, type Sequence } from './postProcessors.ts'
import { createPreTokenizer, type PreTokenizerPlan } from './preTokenizers.ts'
import { readTokenizerConfig, specialTokenKeys, type NamedSpecialToken, type TokenizerConfig } from './tokenizerConfig.ts'
import { readTokenizerFolder, writeTokenizerFolder } from './tokenizerFiles.ts'
import { formatTokenizerJSON } from './tokenizerJSON.ts'
import { WordCache } from './wordCache.ts'

/** What `encode` takes beside the text. */
export interface EncodeOptions {
  /** Put the tokens of the post-processor, such as a BOS, around the text. Default true. */
  addSpecialTokens?: boolean
  /**
   * Whether special tokens written in the text, such as `<|im_end|>`, become control tokens. Default true, as Hugging Face does;
   * pass false for text that a user or a data set supplies. 'all' means true.
   */
  allowSpecial?: boolean | 'all'
}

/** What `decode` takes beside the ids. */
export interface DecodeOptions {
  /** Leave special tokens out. Default false. */
  skipSpecialTokens?: boolean
  /** Remove blanks before punctuation and English contractions. Default: as the tokenizer's config says, never for BPE. */
  cleanUpTokenizationSpaces?: boolean
}

/** What `applyChatTemplate` takes beside the messages. */
export interface ApplyChatTemplateOptions extends RenderOptions {
  /** Use this template of a tokenizer that has several, or this Jinja text. Default 'default', or 'tool_use' with tools. */
  chatTemplate?: string
}

const cachedWords = 1 << 16

/** A tokenizer.json as it was read. */
interface Parts { root: Fields, normalizer: ReturnType<typeof createNormalizer>, plan: PreTokenizerPlan, model: TokenModel }

/** A tokenizer.json with its config: text to ids and back, exactly as Hugging Face's tokenizers do it. */
export class Tokenizer {
  readonly config: TokenizerConfig
  readonly #source: string
  readonly #model: TokenModel
  readonly #added: AddedVocabulary
  readonly #plan: PreTokenizerPlan
  readonly #postProcessor: PostProcessor | undefined
  readonly #decoder: Decoder | undefined
  readonly #cache = new WordCache(cachedWords)
  readonly #scratch: number[] = []
  #isSpecial = new Uint8Array(0)
  #changed = false

  private constructor(source: string, config: TokenizerConfig, where: string, { root, normalizer, plan, model }: Parts) {
    this.#source = source
    this.config = config
    this.#plan = plan
    this.#model = model
    this.#added = new AddedVocabulary(this.#model, normalizer)
    if (root.has('added_tokens')) this.#added.load(root.objects('added_tokens'))
    this.#addFromConfig()
    this.#postProcessor = createPostProcessor(root.raw('post_processor'), `${where}.post_processor`, this.#idLimit())
    this.#decoder = createDecoder(root.raw('decoder'), `${where}.decoder`)
    this.#markSpecial()
  }

  /** Reads the tokenizer of a model folder: tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja. */
  static async fromPretrained(dir: string): Promise<Tokenizer> {
    return during({ what: `loading the tokenizer ${dir}` }, async () => {
      const { source, config, where } = await readTokenizerFolder(dir)
      return new Turns().run(Tokenizer.#reading(source, config, where))
    })
  }

  /** From the text (or the parsed value) of a tokenizer.json and, if there is one, the parsed tokenizer_config.json. */
  static fromJSON(json: string | object, config: object = {}): Tokenizer {
    const source = typeof json === 'string' ? json : JSON.stringify(json)
    return atOnce(Tokenizer.#reading(source, readTokenizerConfig(config, 'tokenizer_config.json'), 'tokenizer.json'))
  }

  static *#reading(source: string, config: TokenizerConfig, where: string): Generator<undefined, Tokenizer> {
    yield
    const root = new Fields(parseJSON(source, where), where)
    yield
    const normalizer = createNormalizer(root.raw('normalizer'), `${where}.normalizer`)
    const plan = createPreTokenizer(root.raw('pre_tokenizer'), `${where}.pre_tokenizer`)
    const model = yield* readModel(root.object('model'), plan.byteLevel)
    return new Tokenizer(source, config, where, { root, normalizer, plan, model })
  }

  /** Writes tokenizer.json (unchanged bytes if no token was added), tokenizer_config.json and the chat templates. */
  async savePretrained(dir: string): Promise<void> {
    await writeTokenizerFolder(dir, this.toJSON(), this.config)
  }

  /** The text of tokenizer.json. */
  toJSON(): string {
    return this.#changed ? formatTokenizerJSON(this.#source, this.#added.list()) : this.#source
  }

  /** Number of tokens, added ones included: Python's `len(tokenizer)`. */
  get vocabSize(): number {
    return this.#model.size + this.#added.extra
  }

  /** One more than the largest id: the least number of rows an embedding must have. */
  get embeddingRows(): number {
    return this.#idLimit()
  }

  get modelType(): TokenModel['type'] {
    return this.#model.type
  }

  get bosToken(): string | undefined { return this.config.tokens.bosToken }
  get eosToken(): string | undefined { return this.config.tokens.eosToken }
  get padToken(): string | undefined { return this.config.tokens.padToken }
  get unkToken(): string | undefined { return this.config.tokens.unkToken }
  get sepToken(): string | undefined { return this.config.tokens.sepToken }
  get clsToken(): string | undefined { return this.config.tokens.clsToken }
  get maskToken(): string | undefined { return this.config.tokens.maskToken }
  get bosTokenId(): number | undefined { return this.#idOf('bosToken') }
  get eosTokenId(): number | undefined { return this.#idOf('eosToken') }
  get padTokenId(): number | undefined { return this.#idOf('padToken') }
  get unkTokenId(): number | undefined { return this.#idOf('unkToken') }
  get sepTokenId(): number | undefined { return this.#idOf('sepToken') }
  get clsTokenId(): number | undefined { return this.#idOf('clsToken') }
  get maskTokenId(): number | undefined { return this.#idOf('maskToken') }

  #idOf(name: NamedSpecialToken): number | undefined {
    const token = this.config.tokens[name]
    return token === undefined ? undefined : this.tokenToId(token)
  }

  /** Makes `content` the token of that role, adding it to the vocabulary if it is not there. */
  setSpecialToken(name: NamedSpecialToken, content: string): void {
    if (this.tokenToId(content) === undefined || !this.#added.get(content)?.special) this.addTokens([content], { special: true })
    this.config.tokens[name] = content
  }

  /** The special tokens, by id. */
  get specialTokens(): string[] {
    return this.#added.list().filter((token) => token.special).map((token) => token.content)
  }

  get specialTokenIds(): number[] {
    return this.#added.list().filter((token) => token.special).map((token) => token.id)
  }

  /** The added tokens with their options, by id. */
  get addedTokens(): AddedToken[] {
    return this.#added.list()
  }

  /** The default chat template, if there is one. */
  get chatTemplate(): string | undefined {
    return this.config.chatTemplates.default
  }

  set chatTemplate(template: string | undefined) {
    if (template === undefined) delete this.config.chatTemplates.default
    else this.config.chatTemplates.default = template
  }

  tokenToId(token: string): number | undefined {
    return this.#added.get(token)?.id ?? this.#model.tokenToId(token)
  }

  idToToken(id: number): string | undefined {
    return this.#added.byId(id)?.content ?? this.#model.idToToken(id)
  }

  /** Every token with its id. */
  vocab(): Map<string, number> {
    const all = new Map(this.#model.entries())
    for (const token of this.#added.list()) all.set(token.content, token.id)
    return all
  }

  /** Adds tokens after the vocabulary; returns how many are new. Resize the model's embedding when it is not 0. */
  addTokens(tokens: readonly (string | ({ content: string } & AddedTokenOptions))[], options: AddedTokenOptions = {}): number {
    let grown = 0
    for (const token of tokens) {
      const entry = typeof token === 'string' ? { content: token } : token
      if (this.#added.add(entry.content, { ...options, ...entry })) grown++
    }
    this.#changed = true
    this.#markSpecial()
    return grown
  }

  /** Text to ids. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    const out: number[] = []
    this.#encodeInto(text, options.allowSpecial !== false, out)
    if (options.addSpecialTokens === false || !this.#postProcessor) return out
    const sequences = this.#postProcessor({ ids: out, typeId: 0 }, undefined)
    return sequences.length === 1 && sequences[0]!.ids === out ? out : sequences.flatMap((sequence) => sequence.ids)
  }

  /** A pair of texts, such as a question and a passage, with the type id of each token. */
  encodePair(first: string, second: string, options: EncodeOptions = {}): { inputIds: number[], tokenTypeIds: number[] } {
    const sequences = [first, second].map((text, typeId): Sequence => {
      const ids: number[] = []
      this.#encodeInto(text, options.allowSpecial !== false, ids)
      return { ids, typeId }
    })
    const whole = options.addSpecialTokens === false || !this.#postProcessor
      ? sequences
      : this.#postProcessor(sequences[0]!, sequences[1])
    return { inputIds: whole.flatMap((each) => each.ids), tokenTypeIds: whole.flatMap((each) => each.ids.map(() => each.typeId)) }
  }

  /** Where special tokens are spelled in `text`: indices into the string. */
  specialStarts(text: string): number[] {
    return this.#added.specialStarts(text)
  }

  /** Encodes without post-processor; special tokens that start at `plainAt` are read as mere text, all others as control tokens. */
  encodeWithPlain(text: string, plainAt: ReadonlySet<number>): number[] {
    const out: number[] = []
    this.#encodeInto(text, true, out, plainAt)
    return out
  }

  /**
   * For tokens whose bytes together are exactly the UTF-8 of `text`: the index in `text` after each token, or within the
   * character that it cuts. Undefined where the tokenizer does not keep the text as it was.
   */
  tokenEnds(text: string, ids: readonly number[]): Int32Array | undefined {
    if (!this.#decoder?.byteLevelOnly) return undefined
    const ends = new Int32Array(ids.length)
    const bytes = new TextEncoder().encode(text)
    let at = 0
    let units = 0
    for (let i = 0; i < ids.length; i++) {
      for (const byte of tokenBytes(this.idToToken(ids[i]!) ?? '')) {
        if (byte !== bytes[at++]) return undefined
        // A lead byte starts a character; four bytes make two code units.
        if ((byte & 0xc0) !== 0x80) units += byte >= 0xf0 ? 2 : 1
      }
      ends[i] = units
    }
    return at === bytes.length ? ends : undefined
  }

  /** How many bytes of text each token stands for; undefined where that depends on the tokens around it. */
  tokenByteLengths(ids: ArrayLike<number>): Int32Array | undefined {
    return this.#decoder?.byteLevelOnly ? Int32Array.from(ids, (id) => tokenBytes(this.idToToken(id) ?? '').length) : undefined
  }

  encodeBatch(texts: readonly string[], options: EncodeOptions = {}): number[][] {
    return texts.map((text) => this.encode(text, options))
  }

  #encodeInto(text: string, allowSpecial: boolean, out: number[], plainAt?: ReadonlySet<number>): void {
    if (text === '') return
    // A lone surrogate has no UTF-8; it is read as U+FFFD, as everywhere in JavaScript. The length stays the same.
    const wellFormed = /[\ud800-\udfff]/.test(text) ? text.replace(/\p{Surrogate}/gu, '\ufffd') : text
    for (const section of this.#added.sections(wellFormed, allowSpecial, plainAt)) {
      if ('id' in section) {
        out.push(section.id)
      } else if (section.text !== '') {
        const words = this.#plan.split ? this.#plan.split([section.text], section.atStart) : [section.text]
        if (allowSpecial && !plainAt) for (const word of words) this.#encodeWord(word, out)
        else for (const word of words) this.#encodePlainWord(word, out)
      }
    }
  }

  #encodeWord(word: string, out: number[]): void {
    const known = this.#cache.get(word)
    if (typeof known === 'number') {
      out.push(known)
    } else if (known !== undefined) {
      for (let i = 0; i < known.length; i++) out.push(known[i]!)
    } else {
      const ids = this.#scratch
      ids.length = 0
      this.#model.encodeWord(word, ids)
      for (let i = 0; i < ids.length; i++) out.push(ids[i]!)
      this.#cache.set(word, ids.slice())
    }
  }

  /** As `#encodeWord`, but a word that happens to spell a special token is taken apart rather than becoming one. */
  #encodePlainWord(word: string, out: number[]): void {
    const before = out.length
    this.#encodeWord(word, out)
    for (let i = before; i < out.length; i++) {
      if (this.#forbidden(out[i]!)) {
        out.length = before
        this.#encodeApart(word, out)
        return
      }
    }
  }

  #encodeApart(word: string, out: number[]): void {
    for (let at = 0; at < word.length;) {
      const next = nextCodePoint(word, at)
      const ids: number[] = []
      this.#model.encodeWord(word.slice(at, next), ids)
      for (const id of ids) if (!this.#forbidden(id)) out.push(id)
      at = next
    }
  }

  #forbidden(id: number): boolean {
    return this.#isSpecial[id] === 1 && id !== this.#model.unkId
  }

  /** Ids to text. Ids that are not in the vocabulary are left out. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const tokens: string[] = []
    const skip = options.skipSpecialTokens === true
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i]!
      if (skip && this.#isSpecial[id] === 1) continue
      const token = this.idToToken(id)
      if (token !== undefined) tokens.push(token)
    }
    const text = this.#decoder ? this.#decoder.chain(tokens).join('') : tokens.join(' ')
    const configured = this.config.cleanUpTokenizationSpaces && this.#model.type !== 'BPE'
    return options.cleanUpTokenizationSpaces ?? configured ? cleanUp(text) : text
  }

  decodeBatch(batch: readonly ArrayLike<number>[], options: DecodeOptions = {}): string[] {
    return batch.map((ids) => this.decode(ids, options))
  }

  /** Decodes ids as they come; the pieces together are `decode` of all of them, without clean-up. */
  decodeStream(options: DecodeOptions = {}): DecodeStream {
    const skip = options.skipSpecialTokens === true
    if (this.#decoder?.byteLevelOnly) {
      return new ByteDecodeStream((id) => (skip && this.#isSpecial[id] === 1 ? undefined : this.idToToken(id)))
    }
    return new WindowDecodeStream((ids) => this.decode(ids, { skipSpecialTokens: skip, cleanUpTokenizationSpaces: false }))
  }

  /** Renders a conversation to text. */
  applyChatTemplate(messages: readonly ChatMessage[], options: ApplyChatTemplateOptions & { tokenize: false }): string
  /** Renders a conversation and tells which tokens the assistant wrote. */
  applyChatTemplate(messages: readonly ChatMessage[], options: ApplyChatTemplateOptions & { returnAssistantTokensMask: true }): TokenizedConversation
  /** Renders a conversation to ids. */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ApplyChatTemplateOptions): number[]
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options: ApplyChatTemplateOptions & { tokenize?: boolean, returnAssistantTokensMask?: boolean } = {},
  ): string | number[] | TokenizedConversation {
    if (options.tokenize === false) return renderChat(this.chatTemplateFor(options), messages, this.templateVariables(), options)
    const { tokenize: _, returnAssistantTokensMask, ...rest } = options
    const conversation = tokenizeConversation(this, messages, { ...rest, allowSpecial: true, assistantMask: returnAssistantTokensMask === true })
    return returnAssistantTokensMask ? conversation : conversation.inputIds
  }

  /** The Jinja text that a call would use. */
  chatTemplateFor(options: { chatTemplate?: string, tools?: readonly unknown[] }): string {
    const named = this.config.chatTemplates
    const wanted = options.chatTemplate ?? (options.tools && named['tool_use'] !== undefined ? 'tool_use' : 'default')
    if (Object.hasOwn(named, wanted)) return named[wanted]!
    if (options.chatTemplate !== undefined && /\{[{%]/.test(options.chatTemplate)) return options.chatTemplate
    const names = Object.keys(named)
    throw new TokenizerError(names.length > 0
      ? `the tokenizer has no chat template ${JSON.stringify(wanted)}, only ${names.join(', ')}`
      : 'the tokenizer has no chat template; set tokenizer.chatTemplate, for example to chatMLTemplate, or pass chatTemplate')
  }

  /** The special tokens under the names that templates use. */
  templateVariables(): Record<string, string> {
    const variables: Record<string, string> = {}
    for (const [name, variable] of specialTokenKeys) {
      const token = this.config.tokens[name]
      if (token !== undefined) variables[variable] = token
    }
    return variables
  }

  /** As transformers does: tokens that only tokenizer_config.json knows are added too. */
  #addFromConfig(): void {
    for (const token of this.config.addedTokens) {
      const known = this.#added.get(token.content)
      const id = known?.id ?? this.#model.tokenToId(token.content) ?? this.#idLimit()
      if (id !== token.id) {
        throw new TokenizerError(`tokenizer_config.json: added_tokens_decoder gives ${JSON.stringify(token.content)} the id ${token.id}, ` +
          `but in tokenizer.json it is ${id}; the two files do not belong together`)
      }
      if (!known || known.special !== token.special) this.#change(token.content, token)
    }
    for (const content of Object.values(this.config.tokens)) {
      if (this.#added.get(content) === undefined) this.#change(content, { special: true })
    }
  }

  #change(content: string, options: AddedTokenOptions): void {
    this.#added.add(content, options)
    this.#changed = true
  }

  #idLimit(): number {
    let limit = this.#model.idLimit
    for (const token of this.#added.list()) limit = Math.max(limit, token.id + 1)
    return limit
  }

  #markSpecial(): void {
    this.#isSpecial = new Uint8Array(this.#idLimit())
    for (const token of this.#added.list()) if (token.special) this.#isSpecial[token.id] = 1
    this.#cache.clear()
  }
}

function parseJSON(source: string, where: string): unknown {
  try {
    return JSON.parse(source)
  } catch (error) {
    throw new TokenizerError(`${where}: not valid JSON (${error instanceof Error ? error.message : String(error)}); the file is damaged`, { cause: error })
  }
}

function* readModel(fields: Fields, byteLevel: boolean): Generator<undefined, TokenModel> {
  const guessed = fields.has('merges') ? 'BPE' : Array.isArray(fields.raw('vocab')) ? 'Unigram' : undefined
  const type = fields.string('type', guessed)
  const wrap = (model: TokenModel): TokenModel => byteLevel && model.type !== 'BPE' ? new ByteLevelWords(model) : model
  switch (type) {
    case 'BPE': return yield* BpeModel.read(fields, byteLevel)
    case 'WordPiece': return wrap(yield* WordPieceModel.read(fields))
    case 'WordLevel': return wrap(yield* WordLevelModel.read(fields))
    case 'Unigram': return wrap(yield* UnigramModel.read(fields))
    default: return fields.fail('type', `unknown model ${JSON.stringify(type)}; expected BPE, WordPiece, WordLevel or Unigram`)
  }
}
