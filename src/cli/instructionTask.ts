import { RandomSequence } from '../data/index.ts'

export interface InstructionRow { messages: [{ role: 'user'; content: string }, { role: 'assistant'; content: string }] }

const kinds = {
  'a fruit': ['apple', 'banana', 'cherry', 'grape', 'lemon', 'mango', 'melon', 'orange', 'peach', 'pear', 'plum', 'fig'],
  'an animal': ['bear', 'cat', 'cow', 'dog', 'fox', 'goat', 'horse', 'lion', 'mouse', 'rabbit', 'tiger', 'wolf'],
  'a color': ['black', 'blue', 'brown', 'green', 'grey', 'pink', 'purple', 'red', 'silver', 'violet', 'white', 'yellow'],
} as const
type Kind = keyof typeof kinds

/**
 * Questions with one right answer: "Which of these is a fruit: cat, red, apple?". One word of each kind is named, in any order, which makes
 * 31,104 questions; those held out are never trained on.
 */
export function instructionTask(trainRows: number, heldOutRows: number, seed = 7): { train: InstructionRow[]; heldOut: InstructionRow[] } {
  const random = new RandomSequence(seed, 'shuffle')
  let drawn = 0
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random.uniform(drawn++) * items.length)]!
  const asked = new Set<string>()
  const row = (): InstructionRow => {
    for (;;) {
      const kind = pick(Object.keys(kinds) as Kind[])
      const words = Object.values(kinds).map((list) => pick<string>(list))
      const answer = words[Object.keys(kinds).indexOf(kind)]!
      const shuffled = words.map((word) => ({ word, at: random.uniform(drawn++) })).sort((a, b) => a.at - b.at).map(({ word }) => word)
      const question = `Which of these is ${kind}: ${shuffled.join(', ')}?`
      if (asked.has(question)) continue
      asked.add(question)
      return { messages: [{ role: 'user', content: question }, { role: 'assistant', content: answer }] }
    }
  }
  return { heldOut: Array.from({ length: heldOutRows }, row), train: Array.from({ length: trainRows }, row) }
}
