// Proves of the CUDA kernels what tests/ops/alignment.test.ts proves of the CPU's: TRL's advantages and policy losses, and AdamW with 8-bit moments.
import { runOn } from '../ops/adapterKernels.ts'
import { describeAdamw8bit, describeAdvantages, describePolicyLoss } from '../ops/alignmentKernels.ts'
import { on, tested } from './device.ts'

const run = runOn((body) => { on(tested, body) })
describeAdvantages(run)
describePolicyLoss(run)
describeAdamw8bit(run)
