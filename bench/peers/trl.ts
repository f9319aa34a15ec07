// TRL, transformers and PyTorch running the steps of bench/steps/reinforcement.ts, by the script reinforcement.py.
import type { Peer } from './peer.ts'
import { keepMemory, offline, python, scriptPath } from './torch.ts'

/** What runs each step. TRL has no PPO any more. */
const labels: Readonly<Record<string, string>> = { 'grpo-tiny': 'TRL', 'grpo-tiny-rollout': 'transformers', 'grpo-tiny-update': 'torch', 'dpo-tiny': 'TRL', 'group-advantages': 'torch' }

export function trlPeers(name: string): Peer[] {
  const library = labels[name]
  if (library === undefined) return []
  return [{
    label: `${library}, tuned malloc`,
    preparation: 60,
    command({ threads, seconds, limit }) {
      const command = python()
      if (!command) return null
      return { command, args: [scriptPath('reinforcement.py'), name, '--threads', String(threads), '--seconds', String(seconds), '--limit', String(limit)], env: { ...offline, ...keepMemory } }
    },
  }]
}
