import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { RawConfig } from '../../src/models/config.ts'

/** What record.py measured of one model. */
export interface Recorded {
  config: RawConfig
  inputIds: number[][]
  labels: number[][]
  logits: { sequence: number, position: number, values: number[] }[]
  loss: number
  gradientNorms: Record<string, number>
  adamwLosses: number[]
  prompt: number[]
  greedy: number[]
  hiddenStates?: number[][]
  attentions?: number[][]
}

export const families = ['gpt2', 'llama2', 'llama3', 'llama-rope', 'qwen2', 'qwen3', 'mistral', 'gemma3'] as const

export const folderOf = (family: string): string => fileURLToPath(new URL(`../recorded/models/${family}`, import.meta.url))

export const recordedOf = (family: string): Record<string, Recorded> =>
  (JSON.parse(readFileSync(`${folderOf(family)}/expected.json`, 'utf8')) as { variants: Record<string, Recorded> }).variants

/** Every family and variant: [label, folder, recorded]. */
export const everyModel: [label: string, folder: string, recorded: Recorded][] = families.flatMap((family) =>
  Object.entries(recordedOf(family)).map(([variant, recorded]): [string, string, Recorded] => [`${family} ${variant}`, folderOf(family), recorded]))

/** max |a - b| over max(|b|): how far numbers are apart, relative to their largest. */
export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity
  let [most, scale] = [0, 0]
  for (let i = 0; i < b.length; i++) {
    most = Math.max(most, Math.abs(a[i]! - b[i]!))
    scale = Math.max(scale, Math.abs(b[i]!))
  }
  return most === 0 ? 0 : most / scale
}
