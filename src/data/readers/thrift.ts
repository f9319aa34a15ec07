/** What a struct of Thrift's compact protocol holds, by field number; parts that are of no use here are read and left out. */
export type ThriftStruct = Map<number, number | boolean | ThriftStruct>

/** Reads numbers, flags and structs of Thrift's compact protocol, in which Parquet writes the headers of its pages. Throws RangeError at the end of the bytes. */
export class ThriftReader {
  private readonly view: DataView
  at: number

  constructor(view: DataView, at: number) {
    this.view = view
    this.at = at
  }

  private byte(): number { return this.view.getUint8(this.at++) }

  /** An unsigned number; exact below 2^53. */
  varint(): number {
    let [value, scale] = [0, 1]
    for (;;) {
      const byte = this.byte()
      value += (byte & 0x7f) * scale
      if (byte < 0x80) return value
      scale *= 128
    }
  }

  private zigzag(): number {
    const value = this.varint()
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2
  }

  struct(depth = 0): ThriftStruct {
    if (depth > 16) throw new RangeError('structs are nested too deep')
    const fields: ThriftStruct = new Map()
    for (let field = 0; ;) {
      const head = this.byte()
      if ((head & 15) === 0) return fields
      field = head >> 4 ? field + (head >> 4) : this.zigzag()
      const value = this.value(head & 15, depth)
      if (value !== undefined) fields.set(field, value)
    }
  }

  private value(type: number, depth: number): number | boolean | ThriftStruct | undefined {
    switch (type) {
      case 1: return true
      case 2: return false
      case 3: return this.byte()
      case 4: case 5: case 6: return this.zigzag()
      case 7: this.at += 8; return undefined
      case 8: { const length = this.varint(); this.at += length; return undefined }
      case 9: case 10: {
        const head = this.byte()
        const count = head >> 4 === 15 ? this.varint() : head >> 4
        // In a list, a flag takes a byte.
        for (let i = 0; i < count; i++) this.value((head & 15) <= 2 ? 3 : head & 15, depth)
        return undefined
      }
      case 12: return this.struct(depth + 1)
      default: throw new RangeError(`unknown type ${type}`)
    }
  }
}
