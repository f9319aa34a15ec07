// Writes the PTX of all CUDA kernels to build-simt/ptx, where ANNEAL_SIMT_PTX=build-simt/ptx lets the emulator run it in place of the host's code.
// usage: node scripts/build-ptx.js [--arch sm_90] [name …]
import { compilePtx, compilerVersion, findCompiler, inParallel, kernelFiles, ptxFolder, removeStale } from './cuda-compile.js'

const args = process.argv.slice(2)
const at = args.indexOf('--arch')
const arch = at < 0 ? 'sm_90' : args.splice(at, 2)[1]
const nvcc = findCompiler()
if (!nvcc) {
  console.log('build-ptx: nvcc was not found; install the CUDA toolkit 12.4 or newer to run the kernels\' PTX')
  process.exit(0)
}
removeStale(arch)
await inParallel(args.length ? args : kernelFiles(), 2, (name) => compilePtx(nvcc, compilerVersion(nvcc), name, arch))
console.log(ptxFolder(arch))
