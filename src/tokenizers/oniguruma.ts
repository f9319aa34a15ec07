import { TokenizerError } from '../errors.ts'

/** Word characters as Oniguruma and Rust's regex have them, written for inside a class. */
export const wordCharacters = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}`

const classEscapes: Readonly<Record<string, string>> = {
  s: String.raw`\p{White_Space}`,
  S: String.raw`\P{White_Space}`,
  d: String.raw`\p{Nd}`,
  D: String.raw`\P{Nd}`,
  w: `[${wordCharacters}]`,
  W: `[^${wordCharacters}]`,
  h: '[0-9a-fA-F]',
  H: '[^0-9a-fA-F]',
  a: String.raw`\x07`,
  e: String.raw`\x1B`,
  t: String.raw`\t`,
  n: String.raw`\n`,
  r: String.raw`\r`,
  f: String.raw`\f`,
  v: String.raw`\v`,
  0: String.raw`\0`,
}

/** Outside a class Oniguruma also takes the superscript digits and fractions of Latin-1 for word characters. */
const word = String.raw`[${wordCharacters}\u00b2\u00b3\u00b9\u00bc-\u00be]`
const nonWord = `[^${word.slice(1)}`
const anchors: Readonly<Record<string, string>> = {
  A: String.raw`(?<![\s\S])`,
  z: String.raw`(?![\s\S])`,
  Z: String.raw`(?=\n?(?![\s\S]))`,
  b: `(?:(?<!${word})(?=${word})|(?<=${word})(?!${word}))`,
  B: `(?:(?<!${word})(?!${word})|(?<=${word})(?=${word}))`,
}

const posixClasses: Readonly<Record<string, string>> = {
  alpha: String.raw`\p{Alphabetic}`,
  digit: String.raw`\p{Nd}`,
  alnum: String.raw`\p{Alphabetic}\p{Nd}`,
  upper: String.raw`\p{Uppercase}`,
  lower: String.raw`\p{Lowercase}`,
  space: String.raw`\p{White_Space}`,
  blank: String.raw`\p{Zs}\t`,
  punct: String.raw`\p{P}\p{S}`,
  cntrl: String.raw`\p{Cc}`,
  xdigit: '0-9a-fA-F',
  word: wordCharacters,
}

/** Characters beyond ASCII that fold to an ASCII letter. */
const foldedBeyondAscii: Readonly<Record<string, string>> = { s: '\u017f', k: '\u212a' }

export interface TranslatedPattern {
  /** For `new RegExp(source, 'v')`. */
  source: string
  /** A repetition inside a repetition: the kind of pattern that can take exponential time. */
  nestedRepetition: boolean
}

/** Rewrites an Oniguruma pattern (the dialect of tokenizer.json) for JavaScript's `v` mode. Groups lose their numbers; back references are refused. */
export function translatePattern(source: string, where: string): TranslatedPattern {
  return new Translator(source, where).run()
}

interface Atom {
  text: string
  repeats: boolean
}

class Translator {
  readonly #source: string
  readonly #where: string
  #at = 0
  #atomicGroups = 0
  #nested = false

  constructor(source: string, where: string) {
    this.#source = source
    this.#where = where
  }

  run(): TranslatedPattern {
    const body = this.#alternatives({ ignoreCase: false, dotAll: false }, 0)
    if (this.#at < this.#source.length) this.#fail('unmatched )')
    return { source: body.text, nestedRepetition: this.#nested }
  }

  #fail(problem: string): never {
    throw new TokenizerError(`${this.#where}: the pattern ${JSON.stringify(this.#source)} has ${problem} at ${this.#at}`)
  }

  /** Everything up to the closing parenthesis or the end. */
  #alternatives(outer: { ignoreCase: boolean, dotAll: boolean }, depth: number): Atom {
    if (depth > 100) this.#fail('groups nested deeper than 100')
    const flags = { ...outer }
    let text = ''
    let repeats = false
    while (this.#at < this.#source.length && this.#source[this.#at] !== ')') {
      if (this.#source[this.#at] === '|') {
        text += '|'
        this.#at++
        continue
      }
      const inline = /^\(\?([im]*)(?:-([im]*))?\)/.exec(this.#source.slice(this.#at, this.#at + 8))
      if (inline) {
        this.#at += inline[0].length
        applyFlags(flags, inline[1] ?? '', inline[2] ?? '')
        continue
      }
      const atom = this.#quantified(this.#atom(flags, depth))
      text += atom.text
      repeats ||= atom.repeats
    }
    return { text, repeats }
  }

  #atom(flags: { ignoreCase: boolean, dotAll: boolean }, depth: number): Atom {
    const char = this.#next()
    switch (char) {
      case '(': return this.#group(flags, depth)
      case '[': return plain(this.#characterClass(flags.ignoreCase, 0))
      case '.': return plain(flags.dotAll ? String.raw`[\s\S]` : String.raw`[^\n]`)
      case '^': return plain(String.raw`(?<![^\n])`)
      case '$': return plain(String.raw`(?![^\n])`)
      case '\\': return plain(this.#escape(flags.ignoreCase))
      case '*': case '+': case '?': return this.#fail(`nothing to repeat before ${char}`)
      default: return plain(literal(char, flags.ignoreCase))
    }
  }

  #group(flags: { ignoreCase: boolean, dotAll: boolean }, depth: number): Atom {
    const head = /^\?(?:<?[=!]|[:>]|<[A-Za-z_]\w*>|([im]*)(?:-([im]*))?:)/.exec(this.#source.slice(this.#at, this.#at + 64))
    if (!head && this.#source[this.#at] === '?') this.#fail('a group of an unknown kind')
    const inner = { ...flags }
    let open = '(?:'
    if (head) {
      this.#at += head[0].length
      if (head[0] === '?>') open = '(?>'
      else if (/[=!]$/.test(head[0])) open = `(${head[0]}`
      else applyFlags(inner, head[1] ?? '', head[2] ?? '')
    }
    const body = this.#alternatives(inner, depth + 1)
    if (this.#source[this.#at] !== ')') this.#fail('a group that is never closed')
    this.#at++
    if (open === '(?>') return { text: this.#atomic(body.text), repeats: body.repeats }
    return { text: `${open}${body.text})`, repeats: body.repeats || body.text.includes('|') }
  }

  /** JavaScript has no atomic group: a look-ahead does not backtrack, so match in one and consume what it captured. */
  #atomic(body: string): string {
    this.#atomicGroups++
    return `(?:(?=(${body}))\\${this.#atomicGroups})`
  }

  #quantified(atom: Atom): Atom {
    let current = atom
    for (;;) {
      const found = /^(?:[*+?]|\{(\d*)(?:(,)(\d*))?\})/.exec(this.#source.slice(this.#at, this.#at + 24))
      if (!found || found[0] === '{}' || found[0] === '{,}') return current
      this.#at += found[0].length
      const [quantifier, low, comma, high] = found
      const unbounded = quantifier === '*' || quantifier === '+' || (comma !== undefined && high === '')
      const many = unbounded || Number(high ?? low ?? 1) > 1
      if (many && current.repeats) this.#nested = true
      const normal = quantifier.startsWith('{') ? `{${low === '' ? '0' : low!}${comma ?? ''}${high ?? ''}}` : quantifier
      const follower = this.#source[this.#at]
      let text = current.text + normal
      if (follower === '?') {
        this.#at++
        text += '?'
      } else if (follower === '+' && !quantifier.startsWith('{')) {
        this.#at++
        text = this.#atomic(text)
      }
      const repeats = current.repeats || unbounded
      const stacked = /^[*+{]/.test(this.#source.slice(this.#at, this.#at + 1))
      current = { text: stacked ? `(?:${text})` : text, repeats }
    }
  }

  #next(): string {
    const code = this.#source.codePointAt(this.#at)
    if (code === undefined) return this.#fail('an unexpected end')
    const char = String.fromCodePoint(code)
    this.#at += char.length
    return char
  }

  #escape(ignoreCase: boolean): string {
    const wordEscape = /^[wW]/.test(this.#source.slice(this.#at, this.#at + 1))
    const shared = wordEscape ? undefined : this.#sharedEscape()
    if (shared !== undefined) return shared
    const char = this.#next()
    if (char === 'w' || char === 'W') return char === 'w' ? word : nonWord
    const anchor = Object.hasOwn(anchors, char) ? anchors[char] : undefined
    if (anchor !== undefined) return anchor
    if (/[A-Za-z1-9]/.test(char)) this.#fail(`the escape \\${char}, which is not supported,`)
    return literal(char, ignoreCase)
  }

  /** Escapes that mean the same in and out of a class. */
  #sharedEscape(): string | undefined {
    const rest = this.#source.slice(this.#at, this.#at + 64)
    const property = /^([pP])\{(\^?)([^}]+)\}/.exec(rest)
    if (property) {
      this.#at += property[0].length
      const negated = (property[1] === 'P') !== (property[2] === '^')
      return this.#property(property[3]!, negated)
    }
    const hex = /^(?:x\{([0-9A-Fa-f]{1,8})\}|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4}))/.exec(rest)
    if (hex) {
      this.#at += hex[0].length
      return `\\u{${(hex[1] ?? hex[2] ?? hex[3])!}}`
    }
    const char = rest[0]
    if (char === undefined) return this.#fail('an escape without a character')
    const known = Object.hasOwn(classEscapes, char) ? classEscapes[char] : undefined
    if (known !== undefined) this.#at++
    return known
  }

  #property(name: string, negated: boolean): string {
    const letter = negated ? 'P' : 'p'
    const posix = posixClasses[name.toLowerCase()]
    if (Object.hasOwn(posixClasses, name.toLowerCase()) && posix !== undefined) return `[${negated ? '^' : ''}${posix}]`
    for (const candidate of [name, `Script=${name}`]) {
      try {
        new RegExp(`\\p{${candidate}}`, 'v')
        return `\\${letter}{${candidate}}`
      } catch {
        continue
      }
    }
    return this.#fail(`the unknown property ${name}`)
  }

  /** A class, after its opening bracket. */
  #characterClass(ignoreCase: boolean, depth: number): string {
    if (depth > 50) this.#fail('classes nested deeper than 50')
    const negated = this.#source[this.#at] === '^'
    if (negated) this.#at++
    const operands: string[] = []
    let text = ''
    let first = true
    for (;;) {
      if (this.#at >= this.#source.length) this.#fail('a character class that is never closed')
      if (this.#source.startsWith('&&', this.#at)) {
        this.#at += 2
        operands.push(text)
        text = ''
        continue
      }
      const char = this.#next()
      if (char === ']' && !first) break
      first = false
      if (char === '[') {
        const posix = /^:(\^?)([a-z]+):\]/.exec(this.#source.slice(this.#at, this.#at + 16))
        const body = posix && Object.hasOwn(posixClasses, posix[2]!) ? posixClasses[posix[2]!] : undefined
        if (posix && body !== undefined) {
          this.#at += posix[0].length
          text += `[${posix[1]!}${body}]`
        } else {
          text += this.#characterClass(ignoreCase, depth + 1)
        }
        continue
      }
      text += this.#classMember(char, ignoreCase)
    }
    operands.push(text)
    if (operands.some((operand) => operand === '')) this.#fail('an empty character class')
    const body = operands.length === 1 ? operands[0]! : operands.map((operand) => `[${operand}]`).join('&&')
    return `[${negated ? '^' : ''}${body}]`
  }

  /** A character or a range; the end of the range is read here. */
  #classMember(char: string, ignoreCase: boolean): string {
    const low = this.#classCharacter(char)
    const isRange = this.#source[this.#at] === '-' && this.#source[this.#at + 1] !== ']' && !this.#source.startsWith('&&', this.#at + 1)
    if (typeof low !== 'number') return low
    if (!isRange) return foldedMembers(low, low, ignoreCase)
    this.#at++
    const high = this.#classCharacter(this.#next())
    if (typeof high !== 'number') return this.#fail('a range that ends in a class')
    if (high < low) this.#fail('a range whose end comes before its start')
    return foldedMembers(low, high, ignoreCase)
  }

  /** The code point, or the text of a class escape. */
  #classCharacter(char: string): number | string {
    if (char !== '\\') return char.codePointAt(0)!
    const shared = this.#sharedEscape()
    if (shared === undefined) {
      const escaped = this.#next()
      if (/[A-Za-ac-z1-9]/.test(escaped)) this.#fail(`the escape \\${escaped}, which is not supported in a class,`)
      return escaped === 'b' ? 8 : escaped.codePointAt(0)!
    }
    const single = /^\\(?:u\{([0-9A-Fa-f]+)\}|x([0-9A-Fa-f]{2})|([tnrfv0]))$/.exec(shared)
    if (!single) return shared
    const hex = single[1] ?? single[2]
    return hex !== undefined ? Number.parseInt(hex, 16) : ({ t: 9, n: 10, r: 13, f: 12, v: 11, 0: 0 })[single[3]!]!
  }
}

function applyFlags(flags: { ignoreCase: boolean, dotAll: boolean }, on: string, off: string): void {
  if (on.includes('i')) flags.ignoreCase = true
  if (on.includes('m')) flags.dotAll = true
  if (off.includes('i')) flags.ignoreCase = false
  if (off.includes('m')) flags.dotAll = false
}

function plain(text: string): Atom {
  return { text, repeats: false }
}

function caseVariants(char: string): string[] {
  const lower = char.toLowerCase()
  const variants = new Set([char, lower, char.toUpperCase(), ...Array.from(foldedBeyondAscii[lower] ?? '')])
  return [...variants].filter((variant) => Array.from(variant).length === 1)
}

function literal(char: string, ignoreCase: boolean): string {
  const variants = ignoreCase ? caseVariants(char) : [char]
  const texts = variants.map((variant) => codePointEscape(variant.codePointAt(0)!))
  return texts.length === 1 ? texts[0]! : `[${texts.join('')}]`
}

function codePointEscape(code: number): string {
  const char = String.fromCodePoint(code)
  return /^[A-Za-z0-9 '"\u0080-\u{10ffff}]$/u.test(char) && !(code >= 0xd800 && code <= 0xdfff) ? char : `\\u{${code.toString(16)}}`
}

function foldedMembers(low: number, high: number, ignoreCase: boolean): string {
  const range = low === high ? codePointEscape(low) : `\\u{${low.toString(16)}}-\\u{${high.toString(16)}}`
  if (!ignoreCase) return range
  let extra = ''
  for (let code = Math.max(low, 0x41); code <= Math.min(high, 0x7a); code++) {
    const char = String.fromCodePoint(code)
    if (/[A-Za-z]/.test(char)) extra += caseVariants(char).map((variant) => codePointEscape(variant.codePointAt(0)!)).join('')
  }
  if (low === high && low > 0x7f) extra += caseVariants(String.fromCodePoint(low)).join('')
  return range + extra
}
