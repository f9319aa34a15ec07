/** A merge of two tokens of a vocabulary. */
export type Merge = readonly [left: string, right: string]

const splits = (token: string): Merge[] => {
  const characters = Array.from(token)
  return characters.slice(1).map((_, i) => [characters.slice(0, i + 1).join(''), characters.slice(i + 1).join('')])
}

/**
 * The merges that SentencePiece's BPE does with these scores, best first: any two tokens whose text together is a token, by its score. The order is
 * that in which transformers writes tokenizer.json from a SentencePiece model.
 */
export function mergesOfScores(vocab: ReadonlyMap<string, number>, scores: (token: string) => number | undefined): Merge[] {
  const found: { merge: Merge, score: number }[] = []
  for (const token of vocab.keys()) {
    const score = scores(token)
    if (score === undefined) continue
    const own = splits(token).filter(([left, right]) => vocab.has(left) && vocab.has(right))
    own.sort((a, b) => vocab.get(a[0])! - vocab.get(b[0])! || vocab.get(a[1])! - vocab.get(b[1])!)
    for (const merge of own) found.push({ merge, score })
  }
  return found.sort((a, b) => b.score - a.score).map(({ merge }) => merge)
}

/** Scores that rank tokens as the merges do that make them: 0, -1, -2, … by the first such merge. Tokens without one have no score. */
export function scoresOfMerges(merges: readonly Merge[]): Map<string, number> {
  const scores = new Map<string, number>()
  for (const [left, right] of merges) if (!scores.has(left + right)) scores.set(left + right, 0 - scores.size)
  return scores
}
