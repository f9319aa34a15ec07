// Reads TFRecord files and protobuf messages, written from the format descriptions alone and sharing nothing with the writer.

/** CRC-32C bit by bit. */
function checksum(bytes: Uint8Array): number {
  let crc = ~0
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (-(crc & 1) & 0x82f63b78)
  }
  crc = ~crc >>> 0
  return Number((((BigInt(crc) >> 15n) | ((BigInt(crc) << 17n) & 0xffffffffn)) + 0xa282ead8n) & 0xffffffffn)
}

export function readRecords(file: Buffer): Buffer[] {
  const records: Buffer[] = []
  for (let at = 0; at < file.length;) {
    const length = Number(file.readBigUInt64LE(at))
    const data = file.subarray(at + 12, at + 12 + length)
    if (file.readUInt32LE(at + 8) !== checksum(file.subarray(at, at + 8))) throw new Error(`length checksum at ${at}`)
    if (file.readUInt32LE(at + 12 + length) !== checksum(data)) throw new Error(`data checksum at ${at}`)
    records.push(data)
    at += 16 + length
  }
  return records
}

/** Fields of a message by number: varints as bigint, everything else as bytes. */
export function decodeMessage(bytes: Buffer): Map<number, (bigint | Buffer)[]> {
  const fields = new Map<number, (bigint | Buffer)[]>()
  let at = 0
  const varint = (): bigint => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++]!
      value |= BigInt(byte & 127) << shift
      if (byte < 128) return value
    }
  }
  const take = (length: number): Buffer => {
    if (at + length > bytes.length) throw new Error('message cut short')
    at += length
    return bytes.subarray(at - length, at)
  }
  while (at < bytes.length) {
    const key = Number(varint())
    const wire = key & 7
    const value = wire === 0 ? varint() : wire === 1 ? take(8) : wire === 5 ? take(4) : wire === 2 ? take(Number(varint())) : undefined
    if (value === undefined) throw new Error(`wire type ${wire}`)
    fields.set(key >>> 3, [...fields.get(key >>> 3) ?? [], value])
  }
  return fields
}
