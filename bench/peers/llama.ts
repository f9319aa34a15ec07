// llama.cpp through node-llama-cpp, where ANNEAL_LLAMA names a folder with node_modules/node-llama-cpp. Its model is written on first use.
import { fileURLToPath } from 'node:url'
import type { Peer } from './peer.ts'

/** The file that stands beside a step with these weights. */
const types: Readonly<Record<string, readonly string[]>> = { float32: [], bfloat16: ['bf16'], nf4: ['q4_0'], int4: ['q4_0'], int8: ['q8_0'] }

const script = fileURLToPath(new URL('llamaRun.ts', import.meta.url))

export function llamaPeers(kind: 'prefill' | 'decode', format: string): Peer[] {
  return (types[format] ?? []).map((type) => ({
    label: `node-llama-cpp ${type}`,
    // Writing the model takes a while.
    preparation: 180,
    command({ threads, seconds, limit }) {
      const folder = process.env.ANNEAL_LLAMA
      if (!folder) return null
      return { command: process.execPath, args: ['--import', 'tsx', script, kind, type, folder, '--threads', String(threads), '--seconds', String(seconds), '--limit', String(limit)] }
    },
  }))
}
