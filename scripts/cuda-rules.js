// What the machine code of every CUDA kernel must hold, and the kernels that may break a rule, each with its reason.

/** Kernels whose time is spent in moving rows of numbers: they must have accesses of 16 bytes. */
const streaming = /^(activation|swiglu|rms_norm|layer_norm|norm|softmax|convert|adamw|rope|embedding|fill|dequantize|dropout)\w*_kernel</
/** Kernels whose products must run on tensor cores. */
const matrix = /^(gemm_half|attention_forward|attention_backward|quantized_many)\w*_kernel/

export const rules = [
  { key: 'spills', applies: () => true, holds: ({ spills }) => spills === 0, text: ({ spills }) => `spills ${spills} bytes of registers` },
  { key: 'stack', applies: () => true, holds: ({ stack }) => stack === 0, text: ({ stack }) => `needs a stack of ${stack} bytes` },
  { key: 'local', applies: () => true, holds: ({ local }) => local === 0, text: ({ local }) => `has ${local} accesses of local memory` },
  { key: 'tensor', applies: (name) => matrix.test(name), holds: ({ tensor }) => tensor > 0, text: () => 'has no tensor instructions' },
  { key: 'wide', applies: (name) => streaming.test(name), holds: ({ wide }) => wide > 0, text: ({ narrow }) => `has ${narrow} global accesses and none of 16 bytes` },
  { key: 'asyncNarrow', applies: () => true, holds: ({ asyncNarrow }) => asyncNarrow === 0, text: ({ asyncNarrow }) => `has ${asyncNarrow} asynchronous copies of less than 16 bytes` },
  { key: 'double', applies: (name) => !/\bdouble\b/.test(name), holds: ({ double }) => double === 0, text: ({ double }) => `has ${double} instructions of FP64` },
]

/** @type {{ key: string, kernels: RegExp, reason: string }[]} */
export const allowances = [
  { key: 'stack', kernels: /^map_kernel<Unary<(Sin|Cos),/, reason: 'the reduction of arguments above 105615 keeps its digits there; others never touch it' },
  { key: 'local', kernels: /^map_kernel<Unary<(Sin|Cos),/, reason: 'the reduction of arguments above 105615 keeps its digits there; others never touch it' },
  { key: 'double', kernels: /^(map_kernel<Constant<|iota_kernel<)/, reason: 'the value comes as a double and is narrowed once a thread' },
  { key: 'double', kernels: /^map_kernel<Convert<(bf16|f16), (int|long|unsigned char)>/, reason: 'integers are rounded to 16 bits once, by way of a double' },
  { key: 'double', kernels: /^measure_kernel<Squares,/, reason: 'the partial sums of a thread are added in f64' },
  { key: 'double', kernels: /^sample_kernel</, reason: 'a few instructions a row: the uniform number has 53 bits' },
  { key: 'double', kernels: /^clip_factor_kernel/, reason: 'one thread, on the f64 sum of squares' },
]

export const allowanceFor = (key, name) => allowances.find((allowance) => allowance.key === key && allowance.kernels.test(name))
