/** Substrings that may become pieces, with the number of words' places where they occur. */
export interface Seeds {
  pieces: string[]
  /** Occurrences times length: SentencePiece's first guess of a piece's worth. */
  scores: number[]
}

/** Ends each word in the flat text. */
const boundary = 0

/**
 * The substrings that occur at least twice and can be continued in two ways: the inner nodes of the suffix tree, found by
 * sorting suffixes up to `maxLength` code units. The best `limit` by occurrences × length are kept.
 */
export function* seedPieces(words: Iterable<string>, maxLength: number, limit: number): Generator<undefined, Seeds> {
  const flat = flatten(words)
  const suffixes = yield* sortSuffixes(flat, maxLength + 1)
  const found: { start: number, length: number, score: number }[] = []
  // Open nodes: the length of the common prefix and the first suffix that has it.
  const depths: number[] = [0]
  const firsts: number[] = [0]
  for (let i = 1; i <= suffixes.length; i++) {
    const common = i < suffixes.length ? commonPrefix(flat, suffixes[i - 1]!, suffixes[i]!, maxLength + 1) : 0
    let first = i - 1
    while (depths[depths.length - 1]! > common) {
      const length = depths.pop()!
      first = firsts.pop()!
      if (length >= 2 && length <= maxLength && wholeCharacters(flat, suffixes[first]!, length)) {
        found.push({ start: suffixes[first]!, length, score: (i - first) * length })
      }
    }
    if (depths[depths.length - 1]! < common) {
      depths.push(common)
      firsts.push(first)
    }
    if ((i & 4095) === 0) yield
  }
  found.sort((a, b) => b.score - a.score || a.start - b.start)
  const kept = found.slice(0, limit)
  return {
    pieces: kept.map(({ start, length }) => String.fromCharCode(...flat.subarray(start, start + length))),
    scores: kept.map(({ score }) => score),
  }
}

function flatten(words: Iterable<string>): Uint16Array {
  const all = [...words]
  const flat = new Uint16Array(all.reduce((sum, word) => sum + word.length + 1, 0))
  let at = 0
  for (const word of all) {
    for (let i = 0; i < word.length; i++) flat[at++] = word.charCodeAt(i)
    flat[at++] = boundary
  }
  return flat
}

/** Neither end cuts a surrogate pair. */
function wholeCharacters(flat: Uint16Array, start: number, length: number): boolean {
  const first = flat[start]!
  const last = flat[start + length - 1]!
  return !(first >= 0xdc00 && first <= 0xdfff) && !(last >= 0xd800 && last <= 0xdbff)
}

/** Length of what two suffixes share; nothing is shared beyond the end of a word. */
function commonPrefix(flat: Uint16Array, a: number, b: number, limit: number): number {
  let length = 0
  while (length < limit && flat[a + length] === flat[b + length] && flat[a + length] !== boundary) length++
  return length
}

/** Starts of all suffixes in order of their first `depth` code units: buckets by the first, then sorts each. */
function* sortSuffixes(flat: Uint16Array, depth: number): Generator<undefined, Int32Array> {
  const sizes = new Int32Array(0x10001)
  for (const unit of flat) if (unit !== boundary) sizes[unit + 1]!++
  for (let i = 1; i < sizes.length; i++) sizes[i]! += sizes[i - 1]!
  const next = sizes.slice()
  const suffixes = new Int32Array(sizes[0x10000]!)
  for (let i = 0; i < flat.length; i++) if (flat[i] !== boundary) suffixes[next[flat[i]!]!++] = i
  const compare = (a: number, b: number): number => {
    for (let i = 1; i < depth; i++) {
      const one = flat[a + i]!
      const other = flat[b + i]!
      if (one !== other) return one - other
      if (one === boundary) return a - b
    }
    return a - b
  }
  for (let unit = 1; unit <= 0xffff; unit++) {
    const from = sizes[unit]!
    const to = next[unit]!
    if (to - from < 2) continue
    suffixes.subarray(from, to).sort(compare)
    yield
  }
  return suffixes
}
