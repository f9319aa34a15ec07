import type { Command } from 'commander'
import { grpo } from '../../methods/reinforcement/grpo.ts'
import { grpoSchema } from '../../methods/reinforcement/policyOptions.ts'
import { policyCommand } from '../policyCommand.ts'

export const grpoCommand = (): Command => policyCommand('grpo', 'train from rewards of groups of answers: GRPO, DAPO, Dr. GRPO, GSPO, CISPO, SAPO, VESPO', grpoSchema, (args) => grpo(args))
