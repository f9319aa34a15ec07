import { RandomSequence } from '../data/index.ts'

export interface InstructionRow { messages: [{ role: 'user'; content: string }, { role: 'assistant'; content: string }] }

const syllables = ['ka', 'lo', 'mi', 'ne', 'ru', 'sa', 'to', 'vi', 'ze', 'po', 'da', 'fe', 'gi', 'hu', 'ja', 'be']

/**
 * Small instructions with one right answer each: greet someone, repeat a word, say which word comes first. The names and words are made up, and
 * those of the held-out rows never occur in training.
 */
export function instructionTask(trainRows: number, heldOutRows: number, seed = 7): { train: InstructionRow[]; heldOut: InstructionRow[] } {
  const random = new RandomSequence(seed, 'shuffle')
  let drawn = 0
  const pick = (count: number): number => Math.floor(random.uniform(drawn++) * count)
  const words = new Set<string>()
  const word = (): string => {
    for (;;) {
      const made = Array.from({ length: 2 + pick(2) }, () => syllables[pick(syllables.length)]!).join('')
      if (!words.has(made)) return made
    }
  }
  const row = (): InstructionRow => {
    const [a, b] = [word(), word()]
    const name = a[0]!.toUpperCase() + a.slice(1)
    const [question, answer] = [
      [`Say hello to ${name}.`, `Hello, ${name}!`],
      [`Repeat the word "${a}".`, a],
      [`Which comes first: ${a} or ${b}?`, a],
    ][pick(3)] as [string, string]
    return { messages: [{ role: 'user', content: question }, { role: 'assistant', content: answer }] }
  }
  const heldOut = Array.from({ length: heldOutRows }, row)
  for (const { messages } of heldOut) for (const found of messages[0].content.toLowerCase().match(/[a-z]+/g) ?? []) words.add(found)
  return { train: Array.from({ length: trainRows }, row), heldOut }
}
