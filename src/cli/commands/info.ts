import { totalmem } from 'node:os'
import { Command } from 'commander'
import { knownModelTypes } from '../../models/index.ts'
import { AnnealError } from '../../errors.ts'
import { cpu, cudaDevices } from '../../tensor/index.ts'
import type { GpuDescription } from '../../tensor/index.ts'
import { bold, bytesText, print } from '../terminal.ts'

/** The GPUs, or why there are none. */
function findGpus(): GpuDescription[] | string {
  try {
    const gpus = cudaDevices()
    return gpus.length > 0 ? gpus : 'no NVIDIA GPU is visible; check nvidia-smi and CUDA_VISIBLE_DEVICES'
  } catch (error) {
    if (error instanceof AnnealError) return error.message
    throw error
  }
}

export function infoCommand(): Command {
  return new Command('info')
    .description('what this machine and this build can do')
    .option('--json', 'as JSON')
    .action(({ json }: { json?: boolean }) => {
      const gpus = findGpus()
      const facts = {
        node: process.version, platform: `${process.platform}-${process.arch}`, device: typeof gpus === 'string' ? 'cpu' : 'cuda', gpus, threads: cpu.threads, memoryBytes: totalmem(),
        isa: cpu.isa, isas: cpu.isas, bfloat16Products: cpu.isa === 'avx512bf16', models: knownModelTypes,
      }
      if (json) { print(JSON.stringify(facts, undefined, 2)); return }
      print(bold('anneal'))
      print(`node       ${facts.node} on ${facts.platform}`)
      print(`cpu        ${facts.threads} threads, ${bytesText(facts.memoryBytes)} of memory`)
      print(`kernels    ${facts.isa} (this machine can run ${facts.isas.join(', ')}); bfloat16 products: ${facts.bfloat16Products ? 'yes' : 'no, float32 is used instead'}`)
      if (typeof gpus === 'string') print(`cuda       not available: ${gpus}`)
      else gpus.forEach((gpu, i) => { print(`cuda:${i}     ${gpu.name}, compute capability ${gpu.compute}, ${gpu.multiprocessors} multiprocessors, ${bytesText(gpu.memory)} of memory; products by ${gpu.gemmLibrary}`) })
      print(`default    ${facts.device}`)
      print(`models     ${facts.models.join(', ')}`)
    })
}
