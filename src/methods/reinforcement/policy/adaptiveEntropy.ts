import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { awaitedLater } from '../../../awaitedLater.ts'
import { replaceFile } from '../../../files/index.ts'
import { lazily, parseOptions } from '../../../options.ts'

const fileName = 'adaptive_entropy.json'
/** null stands for infinity, before the first step. */
const stateSchema = lazily(() => z.strictObject({ coefficient: z.number(), entropy: z.number().nullable() }))

export interface AdaptiveEntropyOptions { entropyCoef: number, entropyCoefMin: number, entropyCoefMax: number, entropyCoefDelta: number, entropyTarget: number }

/**
 * An entropy bonus that follows the entropy (TRL's use_adaptive_entropy; Skywork-OR1, arXiv 2505.22312): after each optimizer step the coefficient rises by
 * delta where the entropy of the step was at or below the target, else it falls; while the last entropy is above the target there is no bonus.
 */
export class AdaptiveEntropy {
  readonly #options: AdaptiveEntropyOptions
  #coefficient: number
  #entropy = Infinity
  #seen: { sum: Promise<number>, count: number }[] = []

  constructor(options: AdaptiveEntropyOptions) {
    this.#options = options
    this.#coefficient = options.entropyCoef
  }

  /** What follows the entropy. */
  get coefficient(): number { return this.#coefficient }
  /** What the next step's bonus is multiplied by. */
  get applied(): number { return this.#entropy <= this.#options.entropyTarget ? this.#coefficient : 0 }

  /** Takes in the entropy of a micro-batch: its sum over `count` tokens. */
  observe(sum: Promise<number>, count: number): void { this.#seen.push({ sum: awaitedLater(sum), count }) }

  /** Ends an optimizer step, once its micro-batches are computed. */
  async settle(): Promise<void> {
    if (this.#seen.length === 0) return
    const seen = this.#seen
    this.#seen = []
    const sums = await Promise.all(seen.map(({ sum }) => sum))
    const { entropyCoefMin, entropyCoefMax, entropyCoefDelta, entropyTarget } = this.#options
    this.#entropy = sums.reduce((a, b) => a + b, 0) / Math.max(seen.reduce((total, { count }) => total + count, 0), 1)
    this.#coefficient = this.#entropy <= entropyTarget ? Math.min(this.#coefficient + entropyCoefDelta, entropyCoefMax) : Math.max(this.#coefficient - entropyCoefDelta, entropyCoefMin)
  }

  async save(folder: string): Promise<void> {
    await this.settle()
    await replaceFile(join(folder, fileName), `${JSON.stringify({ coefficient: this.#coefficient, entropy: Number.isFinite(this.#entropy) ? this.#entropy : null })}\n`)
  }

  async load(folder: string): Promise<void> {
    const { coefficient, entropy } = parseOptions(stateSchema, JSON.parse(await readFile(join(folder, fileName), 'utf8')), fileName)
    this.#coefficient = coefficient
    this.#entropy = entropy ?? Infinity
    this.#seen = []
  }
}
