import type { Kernels } from '../lib/index.js'

/** Kernels without a timed case, and why. A test keeps this list exact. */
export const notTimed: { readonly [K in keyof Kernels]?: string } = {
  clip_factor: 'makes two numbers of one', attention_plan: 'does nothing on the CPU',
}
