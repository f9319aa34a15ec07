// A whole step to time: of training, of generation. Each runs in a process of its own, so that its peak memory is its own, beside its peers.
import type { Peer } from '../peers/peer.ts'
import type { Body } from '../quiet.ts'

export type StepDType = 'float32' | 'bfloat16'

export interface Prepared {
  /** One step, to its end. Returns the seconds that count, where it does more than that, such as going through a prompt. */
  readonly run: Body
  /** Floating-point operations of a step, counted from its shapes. */
  readonly flops?: number
  /** Tokens that a step goes through. */
  readonly tokens?: number
}

export interface Step {
  /** What --filter matches and --compare finds again. */
  readonly name: string
  readonly dtype: StepDType
  /** Makes the model and the rest. The process ends after the steps, so nothing needs to be released. */
  prepare(): Prepared | Promise<Prepared>
  /** What else runs the same step. */
  readonly peers: readonly Peer[]
}
