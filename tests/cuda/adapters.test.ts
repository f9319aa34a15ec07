// Proves of the CUDA kernels what tests/ops/adapters.test.ts proves of the CPU's: the codes of bitsandbytes, and merging with one rounding.
import { describeMerging, describeQuantization, runOn } from '../ops/adapterKernels.ts'
import { on, tested } from './device.ts'

const run = runOn((body) => { on(tested, body) })
describeQuantization(run, () => tested.fence())
describeMerging(run)
