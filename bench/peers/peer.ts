// Another library that runs the same step in a process of its own.

export interface PeerCall { readonly threads: number; readonly seconds: number; readonly limit: number }

export interface Command { readonly command: string; readonly args: readonly string[]; readonly env?: Readonly<Record<string, string>> }

export interface Peer {
  /** As it stands in tables: "torch", "torch.compile, tuned malloc". */
  readonly label: string
  /** Seconds more than the others that it may take before its first step, to compile. */
  readonly preparation?: number
  /**
   * The process to start, whose last line on stdout is JSON: { median, best, samples, peakMemory } in seconds and bytes, tokensPerSecond where it is not
   * the step's. Null where it is not installed.
   */
  command(call: PeerCall): Command | null
}
