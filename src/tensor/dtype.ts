/** Element types, by the names PyTorch has for them. The order is that of native/tensor.h. */
export const dtypes = ['float32', 'bfloat16', 'float16', 'float64', 'int32', 'int64', 'uint8'] as const
/** The name of a dtype, one of `dtypes`. */
export type DType = (typeof dtypes)[number]

const bytes: Record<DType, number> = { float32: 4, bfloat16: 2, float16: 2, float64: 8, int32: 4, int64: 8, uint8: 1 }
const codes = Object.fromEntries(dtypes.map((dtype, code) => [dtype, code])) as Record<DType, number>

/** Bytes of one element. */
export const bytesOf = (dtype: DType): number => bytes[dtype]

/** The number that stands for the dtype in native calls. */
export const codeOf = (dtype: DType): number => codes[dtype]

/** Whether numbers of this dtype are floating-point, of any width. */
export const isFloat = (dtype: DType): boolean => dtype.includes('float')

/** What `data()` of each dtype returns; the 16-bit floats come as float32. */
export type TypedArray = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array
