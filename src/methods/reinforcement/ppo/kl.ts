/** What the KL penalty is multiplied by, and how it changes. */
export interface KlController {
  readonly coefficient: number
  /** Takes the mean KL of `samples` answers. */
  update(kl: number, samples: number): void
  /** Goes on from a coefficient that was saved. */
  restore(coefficient: number): void
}

/** The same coefficient throughout. */
export function fixedKl(coefficient: number): KlController {
  return { coefficient, update: () => undefined, restore: () => undefined }
}

/**
 * A coefficient that follows the KL to a target: coef · (1 + clip(kl / target - 1, ±0.2) · samples / horizon), after Ziegler et al. 2019, as verl has it.
 */
export function adaptiveKl(start: number, { target, horizon }: { target: number; horizon: number }): KlController {
  let coefficient = start
  return {
    get coefficient() { return coefficient },
    update(kl, samples) {
      coefficient *= 1 + Math.min(Math.max(kl / target - 1, -0.2), 0.2) * samples / horizon
    },
    restore(saved) { coefficient = saved },
  }
}
