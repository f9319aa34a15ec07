/** Element types of GGUF metadata, by their number in the file. */
export const valueTypes = ['uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32', 'float32', 'bool', 'string', 'array', 'uint64', 'int64', 'float64'] as const
export type GgufValueType = (typeof valueTypes)[number]
export type GgufScalarType = Exclude<GgufValueType, 'array'>
export type GgufScalar = number | bigint | boolean | string

/** A value of the metadata with the type it has in the file; 64-bit integers are bigint. */
export type GgufValue =
  | { readonly type: GgufScalarType, readonly value: GgufScalar }
  | { readonly type: 'array', readonly items: GgufScalarType, readonly value: readonly GgufScalar[] }

export const uint32 = (value: number): GgufValue => ({ type: 'uint32', value })
export const float32 = (value: number): GgufValue => ({ type: 'float32', value })
export const bool = (value: boolean): GgufValue => ({ type: 'bool', value })
export const text = (value: string): GgufValue => ({ type: 'string', value })
export const list = (items: GgufScalarType, value: readonly GgufScalar[]): GgufValue => ({ type: 'array', items, value })

/** Bytes of a scalar; strings have their length in front. */
export const scalarBytes: Readonly<Record<Exclude<GgufScalarType, 'string'>, number>> = {
  uint8: 1, int8: 1, uint16: 2, int16: 2, uint32: 4, int32: 4, float32: 4, bool: 1, uint64: 8, int64: 8, float64: 8,
}

export const magic = 0x46554747
export const version = 3
/** Where tensors begin, unless general.alignment says otherwise. */
export const defaultAlignment = 32

export const alignUp = (offset: number, alignment: number): number => Math.ceil(offset / alignment) * alignment
