import { totalmem } from 'node:os'
import { Command } from 'commander'
import { knownModelTypes } from '../../models/index.ts'
import { cpu } from '../../tensor/index.ts'
import { bold, bytesText, print } from '../terminal.ts'

export function infoCommand(): Command {
  return new Command('info')
    .description('what this machine and this build can do')
    .option('--json', 'as JSON')
    .action(({ json }: { json?: boolean }) => {
      const facts = {
        node: process.version, platform: `${process.platform}-${process.arch}`, device: 'cpu', threads: cpu.threads, memoryBytes: totalmem(),
        isa: cpu.isa, isas: cpu.isas, bfloat16Products: cpu.isa === 'avx512bf16', models: knownModelTypes,
      }
      if (json) { print(JSON.stringify(facts, undefined, 2)); return }
      print(bold('anneal'))
      print(`node       ${facts.node} on ${facts.platform}`)
      print(`device     cpu, ${facts.threads} threads, ${bytesText(facts.memoryBytes)} of memory`)
      print(`kernels    ${facts.isa} (this machine can run ${facts.isas.join(', ')}); bfloat16 products: ${facts.bfloat16Products ? 'yes' : 'no, float32 is used instead'}`)
      print(`models     ${facts.models.join(', ')}`)
    })
}
