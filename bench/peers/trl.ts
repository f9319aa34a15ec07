// TRL, transformers and PyTorch running the steps of bench/steps/reinforcement.ts, by the script reinforcement.py.
import type { Peer } from './peer.ts'
import { keepMemory, offline, python, scriptPath } from './torch.ts'

/** What runs each step, with the script's flags. TRL has no PPO any more, and its update is what its GRPO step does but generate and score. */
const libraries: Readonly<Record<string, readonly (readonly [string, ...string[]])[]>> = {
  'grpo-tiny': [['TRL']], 'grpo-tiny-rollout': [['transformers']], 'grpo-tiny-update': [['TRL', '--update'], ['torch']], 'dpo-tiny': [['TRL']], 'group-advantages': [['torch']],
}

export function trlPeers(name: string): Peer[] {
  return (libraries[name] ?? []).map(([library, ...flags]) => ({
    label: `${library}, tuned malloc`,
    preparation: 60,
    command({ threads, seconds, limit }) {
      const command = python()
      if (!command) return null
      return { command, args: [scriptPath('reinforcement.py'), name, '--threads', String(threads), '--seconds', String(seconds), '--limit', String(limit), ...flags], env: { ...offline, ...keepMemory } }
    },
  }))
}
