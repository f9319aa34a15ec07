import { collate, type Batch } from '../../data/index.ts'
import { DataError } from '../../errors.ts'
import type { Tokenizer } from '../../tokenizers/index.ts'
import { alignRow, sharedTokens, type TokenGroup } from './alignment.ts'

/** Options of universal logit distillation: those of TRL's GOLDConfig. */
export interface UldOptions {
  useExtendedUld: boolean
  uldTokenMergeStrategy: 'observed' | 'bayesian'
  uldSkipEos: boolean
  uldUseHybridLoss: boolean
  uldHybridMatchedWeight?: number | undefined
  uldHybridUnmatchedWeight?: number | undefined
}

/** Where the distributions of groups stand among the tokens of one side. */
export interface GroupPlaces {
  /** Of each group, the token whose logits are its distribution. */
  base: Int32Array
  /** Of each token, the id whose probability there multiplies its group's distribution; -100 for none. */
  factorIds: Int32Array
  /** Of each group, the tokens with such ids. */
  factors: readonly (readonly number[])[]
}

/** A batch in the teacher's tokens, and which tokens of both belong together. */
export interface UniversalBatch {
  inputIds: Int32Array
  cuSeqlens: Int32Array
  student: GroupPlaces
  teacher: GroupPlaces
  /** Of each group: a row's groups together weigh as much as its trained tokens. */
  weights: Float32Array
}

/** The batch's groups cut short to pairs of tokens at the same place, as the ULD paper has them. */
const byPlace = (groups: readonly TokenGroup[]): TokenGroup[] => {
  const [student, teacher] = (['student', 'teacher'] as const).map((side) => groups.flatMap((group) => Array.from({ length: group[side][1] - group[side][0] }, (_, i) => group[side][0] + i)))
  return student!.slice(0, teacher!.length).map((token, i) => ({ student: [token, token + 1], teacher: [teacher![i]!, teacher![i]! + 1] }))
}

/**
 * Where the groups' distributions stand. 'bayesian': that of the group's last token, times the probabilities of the tokens before it, by the chain rule.
 * 'observed', TRL's default: the one after the group's first token, times what each later place gives its own token.
 */
export function placesOf(ranges: readonly (readonly [from: number, to: number])[], ids: ArrayLike<number>, strategy: UldOptions['uldTokenMergeStrategy']): GroupPlaces {
  const factorIds = new Int32Array(ids.length).fill(-100)
  const bayesian = strategy === 'bayesian'
  const factors = ranges.map(([from, to]) => Array.from({ length: to - from - 1 }, (_, i) => {
    const token = bayesian ? from + i : from + 1 + i
    const place = bayesian ? token - 1 : token
    factorIds[place] = ids[token]!
    return place
  }))
  return { base: Int32Array.from(ranges, ([from, to]) => bayesian ? to - 2 : from), factorIds, factors }
}

/** Aligns batches of a student's tokens with those of a teacher that has another tokenizer. */
export class UniversalAligner {
  readonly #student: Tokenizer
  readonly #teacher: Tokenizer
  readonly #options: UldOptions
  readonly #longest: number

  constructor(student: Tokenizer, teacher: Tokenizer, options: UldOptions, longest: number) {
    this.#student = student
    this.#teacher = teacher
    this.#options = options
    this.#longest = longest
  }

  align({ inputIds, labels, cuSeqlens }: Batch): UniversalBatch {
    const { useExtendedUld, uldTokenMergeStrategy, uldSkipEos } = this.#options
    const teacherRows: number[][] = []
    const [student, teacher, weights] = [[] as (readonly [number, number])[], [] as (readonly [number, number])[], [] as number[]]
    let offset = 0
    for (let row = 0; row + 1 < cuSeqlens.length; row++) {
      const [start, end] = [cuSeqlens[row]!, cuSeqlens[row + 1]!]
      const own = labels.subarray(start, end)
      const aligned = alignRow(this.#student, this.#teacher, inputIds.subarray(start, end), own, { skipEos: uldSkipEos })
      const { teacherIds } = aligned
      if (teacherIds.length > this.#longest) {
        throw new DataError(`teacher: a row of ${end - start} tokens has ${teacherIds.length} in the teacher's tokenizer, but the teacher takes at most ${this.#longest}; set maxLength lower`)
      }
      // Nothing predicts a row's first token.
      const groups = (useExtendedUld ? aligned.groups : byPlace(aligned.groups)).filter((group) => uldTokenMergeStrategy === 'observed' || group.teacher[0] > 0)
      const trained = own.reduce((count, label) => label === -100 ? count : count + 1, 0)
      for (const group of groups) {
        student.push([start + group.student[0], start + group.student[1]])
        teacher.push([offset + group.teacher[0], offset + group.teacher[1]])
        weights.push(trained / groups.length)
      }
      teacherRows.push(teacherIds)
      offset += teacherIds.length
    }
    const batch = collate(teacherRows.map((ids) => ({ inputIds: Int32Array.from(ids), labels: new Int32Array(ids.length).fill(-100) })))
    return {
      inputIds: batch.inputIds, cuSeqlens: batch.cuSeqlens, weights: Float32Array.from(weights),
      student: placesOf(student, inputIds, uldTokenMergeStrategy), teacher: placesOf(teacher, batch.inputIds, uldTokenMergeStrategy),
    }
  }
}

/** Tokens that both vocabularies have, with their weights. */
export interface SharedVocabulary { student: Int32Array; teacher: Int32Array; matchedWeight: number; unmatchedWeight: number }

/** What the hybrid loss compares one by one. Without weights the share of the teacher's rows that the student has, too, is the matched one's. */
export function hybridVocabulary(student: Tokenizer, teacher: Tokenizer, rows: { student: number, teacher: number }, { uldHybridMatchedWeight, uldHybridUnmatchedWeight }: UldOptions): SharedVocabulary {
  const shared = sharedTokens(student, teacher)
  const matched = uldHybridMatchedWeight ?? shared.teacher.length / Math.max(1, rows.teacher)
  return { student: Int32Array.from(shared.student), teacher: Int32Array.from(shared.teacher), matchedWeight: matched, unmatchedWeight: uldHybridUnmatchedWeight ?? 1 - matched }
}
