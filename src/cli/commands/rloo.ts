import type { Command } from 'commander'
import { rlooSchema } from '../../methods/reinforcement/policyOptions.ts'
import { rloo } from '../../methods/reinforcement/rloo.ts'
import { policyCommand } from '../policyCommand.ts'

export const rlooCommand = (): Command => policyCommand('rloo', 'train from rewards with the other answers as baseline: RLOO', rlooSchema, (args) => rloo(args))
