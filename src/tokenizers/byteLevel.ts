/** GPT-2's table of printable characters, one for each byte: printable Latin-1 stands for itself, the rest is moved to U+0100 and up. */
export const byteToChar: readonly string[] = makeTable()

/** The byte that a character of the table stands for. */
const charToByte: ReadonlyMap<string, number> = new Map(byteToChar.map((char, byte) => [char, byte]))

function makeTable(): string[] {
  const table: string[] = []
  let moved = 0
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    table.push(String.fromCharCode(printable ? byte : 0x100 + moved++))
  }
  return table
}

const encoder = new TextEncoder()
let scratch = new Uint8Array(4096)

/** UTF-8 bytes of `text`, in a buffer that the next call overwrites. A lone surrogate becomes U+FFFD. */
export function utf8(text: string): Uint8Array {
  if (scratch.length < text.length * 3) scratch = new Uint8Array(text.length * 4)
  const { written } = encoder.encodeInto(text, scratch)
  return scratch.subarray(0, written)
}

/** Writes each UTF-8 byte of `text` as its character of the table. */
export function toByteChars(text: string): string {
  if (/^ ?[!-~]+$/.test(text)) return text.startsWith(' ') ? byteToChar[32]! + text.slice(1) : text
  let out = ''
  for (const byte of utf8(text)) out += byteToChar[byte]!
  return out
}

/** The bytes that a byte-level token stands for; a token with foreign characters stands for its own UTF-8 bytes. */
export function tokenBytes(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length)
  for (let i = 0; i < token.length; i++) {
    const byte = charToByte.get(token[i]!)
    if (byte === undefined) return encoder.encode(token)
    bytes[i] = byte
  }
  return bytes
}
