// PyTorch in a virtual environment that ANNEAL_PEERS names, running a script of this folder: SCRIPT NAME --threads N --seconds S --limit L [--compile].
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Peer } from './peer.ts'

/** By default glibc returns large blocks to the system at once, and the next step faults every page in again. */
export const keepMemory = { MALLOC_MMAP_THRESHOLD_: '8589934592', MALLOC_TRIM_THRESHOLD_: '17179869184', MALLOC_TOP_PAD_: '268435456' }

/** The Python that has the peers; undefined where none is given. */
export const python = (): string | undefined => process.env.ANNEAL_PEERS && join(process.env.ANNEAL_PEERS, 'bin', 'python')

/** Offline: a peer that asks the network for a model's card must fail at once. */
export const offline = { HF_HUB_OFFLINE: '1', TRANSFORMERS_OFFLINE: '1', PYTHONUNBUFFERED: '1' }

/** Where a script of this folder is. */
export const scriptPath = (script: string): string => fileURLToPath(new URL(script, import.meta.url))

interface TorchOptions {
  /** Extra arguments. */
  readonly args?: readonly string[]
  /** Whether torch.compile can run it; its first step takes a minute or so. */
  readonly compile?: boolean
}

/** The step `name` of a script: eager, eager with a malloc that keeps memory and compiled with that malloc. */
export function torchPeers(script: string, name: string, { args = [], compile = true }: TorchOptions = {}): Peer[] {
  const peer = (label: string, { tuned, compiled = false }: { tuned: boolean; compiled?: boolean }): Peer => ({
    label, ...(compiled ? { preparation: 150 } : {}),
    command({ threads, seconds, limit }) {
      const command = python()
      if (!command) return null
      const flags = ['--threads', String(threads), '--seconds', String(seconds), '--limit', String(limit), ...args, ...compiled ? ['--compile'] : []]
      return { command, args: [scriptPath(script), name, ...flags], env: { ...offline, ...(tuned ? keepMemory : {}) } }
    },
  })
  return [
    peer('torch', { tuned: false }), peer('torch, tuned malloc', { tuned: true }),
    ...compile ? [peer('torch.compile, tuned malloc', { tuned: true, compiled: true })] : [],
  ]
}
