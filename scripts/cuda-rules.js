// What the machine code of every CUDA kernel must hold, and the kernels that may break a rule, each with its reason.

/** Kernels whose time is spent in moving rows of numbers: they must have accesses of 16 bytes. */
const streaming = /^(activation|swiglu|rms_norm|layer_norm|norm|softmax|convert|adamw|rope|embedding|fill|dequantize|dropout)\w*_kernel</
/** Kernels whose products must run on tensor cores. */
const matrix = /^(gemm_half|attention_forward|attention_backward_keys|attention_backward_queries|quantized_many)_kernel/

/** Tiles of 16 rows that a warp of quantized_few_kernel takes; it reads 2048 bytes of each in a round. */
const rowTiles = (name) => Number(/, (\d), \d>$/.exec(name)[1])

/** `only`: the architecture for which the rule stands. */
export const rules = [
  { key: 'spills', applies: () => true, holds: ({ spills }) => spills === 0, text: ({ spills }) => `spills ${spills} bytes of registers` },
  { key: 'stack', applies: () => true, holds: ({ stack }) => stack === 0, text: ({ stack }) => `needs a stack of ${stack} bytes` },
  { key: 'local', applies: () => true, holds: ({ local }) => local === 0, text: ({ local }) => `has ${local} accesses of local memory` },
  { key: 'tensor', applies: (name) => matrix.test(name), holds: ({ tensor }) => tensor > 0, text: () => 'has no tensor instructions' },
  { key: 'wide', applies: (name) => streaming.test(name), holds: ({ wide }) => wide > 0, text: ({ narrow }) => `has ${narrow} global accesses and none of 16 bytes` },
  { key: 'asyncNarrow', applies: () => true, holds: ({ asyncNarrow }) => asyncNarrow === 0, text: ({ asyncNarrow }) => `has ${asyncNarrow} asynchronous copies of less than 16 bytes` },
  { key: 'double', applies: (name) => !/double/.test(name), holds: ({ double }) => double === 0, text: ({ double }) => `has ${double} instructions of FP64` },
  // By the model of an A100: what the loops of the matrix kernels are bound by, and the instructions that leave NF4 decoding time for 3.35 TB/s.
  ...[['forward', 1], ['backward_(?:keys|queries)', 0.75]].map(([pass, share]) => ({
    key: 'loop', only: 'sm_80', applies: (name) => new RegExp(`^attention_${pass}_kernel<\\w+Shape<(64|128),`).test(name), holds: ({ loop }) => loop.length > 0 && loop[1] >= share * Math.max(...loop),
    text: ({ loop }) => `spends ${loop.join(', ')} cycles of issue, tensor cores, special functions and shared memory in a round; the tensor cores' must be ${100 * share} % of the most`,
  })),
  {
    key: 'loop', only: 'sm_80', applies: (name) => /^quantized_few_kernel<4, false, [12], 1>$/.test(name), holds: ({ loop }, name) => loop[0] / (4 * rowTiles(name)) <= 141,
    text: ({ loop }, name) => `issues ${loop[0] / (4 * rowTiles(name))} instructions for 512 bytes of codes, where 141 keep up with 3.35 TB/s`,
  },
]

/** `only`: the architecture for which the allowance holds; `most`: up to what number. @type {{ keys: string[], kernels: RegExp, only?: string, most?: number, reason: string }[]} */
export const allowances = [
  { keys: ['wide'], kernels: /^norm\w*_kernel<.*, false>$|^rope_kernel<.*, [12]>$/, reason: 'the variant for rows that are not aligned to 16 bytes' },
  { keys: ['stack', 'local', 'double'], kernels: /^map_kernel<Unary<(Sin|Cos),/, reason: 'sine and cosine of large angles reduce them with a table of 2/pi' },
  { keys: ['double'], kernels: /^map_kernel<(Convert<(f16|bf16), (unsigned char|int|long)>|Constant<)|^iota_kernel</, reason: 'a number given or computed in double is rounded once' },
  { keys: ['double'], kernels: /^(fold_energy|clip_factor|measure|batch_advantages|group_advantages|policy_fold|policy_loss|requantize|sample)_kernel/, reason: 'few sums over many numbers, in double as on the CPU' },
  { keys: ['spills', 'stack', 'local'], kernels: /^attention_(forward|backward_keys|backward_queries)_kernel<\w+Shape<256,/, only: 'sm_120', most: 80, reason: 'heads of 256 take all registers, of which this architecture has one less: six to eight numbers a thread wait in local memory' },
  { keys: ['spills', 'stack', 'local'], kernels: /^gemm_float_kernel<FloatTile<128,/, only: 'sm_120', most: 124, reason: 'two blocks of 256 threads leave a thread 128 registers, and this architecture keeps some for itself; cuBLASLt computes products of float32 where it is there' },
  { keys: ['spills', 'stack', 'local'], kernels: /^quantized_few_kernel<4, false, 2, 2>$/, only: 'sm_120', most: 12, reason: 'two blocks of 256 threads leave a thread 128 registers, of which this architecture keeps some for itself: three numbers a thread wait in local memory' },
  ...['sm_86', 'sm_89'].map((only) => ({ keys: ['spills', 'stack', 'local'], kernels: /^policy_loss_kernel</, only, most: 20, reason: 'a few numbers a thread, in a kernel of a few numbers a token' })),
  { keys: ['stack', 'local'], kernels: /^attention_half_kernel$/, reason: 'a table of parameters that the block indexes is copied once, before the loop' },
  { keys: ['asyncNarrow'], kernels: /^attention_backward_keys_kernel</, reason: 'a row has one float each of its log-sum-exp and its delta' },
]

export const isAllowed = (key, name, arch, value) => allowances.some(({ keys, kernels, only = arch, most = Infinity }) => only === arch && value <= most && keys.includes(key) && kernels.test(name))
