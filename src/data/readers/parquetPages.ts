import type { ColumnMetaData, Compressors, SchemaTree } from 'hyparquet'
import { ThriftReader, type ThriftStruct } from './thrift.ts'

/** Most values of a column in a row group, and most bytes of a page: what is claimed is allocated before it is read. */
const maxValues = 2 ** 24
const maxPageBytes = 2 ** 30

const dictionaryEncodings = [2, 8]
const rle = 3

/** The highest repetition and definition level of a column. */
export interface Levels { repetition: number, definition: number }

export function levelsOf(schema: SchemaTree, path: readonly string[]): Levels {
  const levels = { repetition: 0, definition: 0 }
  let node: SchemaTree | undefined = schema
  for (const name of path) {
    node = node.children.find(({ element }) => element.name === name)
    if (!node) throw new Error(`the schema has no column ${path.join('.')}`)
    if (node.element.repetition_type !== 'REQUIRED') levels.definition++
    if (node.element.repetition_type === 'REPEATED') levels.repetition++
  }
  return levels
}

function expect(condition: boolean, problem: string): asserts condition {
  if (!condition) throw new Error(problem)
}

function field(struct: ThriftStruct | undefined, number: number, name: string, most: number): number {
  const value = struct?.get(number)
  expect(typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most, `${name} of a page: expected a whole number up to ${most}${typeof value === 'number' ? `, got ${value}` : ''}`)
  return value
}

function part(struct: ThriftStruct, number: number): ThriftStruct | undefined {
  const value = struct.get(number)
  return value instanceof Map ? value : undefined
}

/**
 * Walks a hybrid of runs and bit-packed groups until it has given `count` values; returns how many of them are `wanted`. A run longer than that is
 * damage: a decoder would write all of it.
 */
function countRuns(view: DataView, begin: number, end: number, width: number, count: number, wanted: number): number {
  expect(width <= 32 && end <= view.byteLength, 'levels or indices reach beyond their page')
  const reader = new ThriftReader(view, begin)
  let [seen, equal] = [0, 0]
  while (seen < count) {
    const head = reader.varint()
    if (head % 2 === 0) {
      const run = head / 2
      expect(run <= count - seen, `a run of ${run} values, where ${count - seen} are left`)
      let value = 0
      for (let i = 0; i < width; i += 8) value += view.getUint8(reader.at++) * 2 ** i
      if (value === wanted) equal += run
      seen += run
    } else {
      const values = Math.min((head - 1) / 2 * 8, count - seen)
      expect((values * width) / 8 <= end - reader.at, 'bit-packed values reach beyond their page')
      if (wanted >= 0) for (let i = 0; i < values; i++) if (bitsAt(view, reader.at * 8 + i * width, width) === wanted) equal++
      reader.at += (head - 1) / 2 * width
      seen += values
    }
    expect(reader.at <= end || seen >= count, 'levels or indices reach beyond their page')
  }
  return equal
}

function bitsAt(view: DataView, bit: number, width: number): number {
  let value = 0
  for (let i = 0; i < width; i++) value += (view.getUint8((bit + i) >> 3) >> ((bit + i) & 7) & 1) * 2 ** i
  return value
}

const widthOf = (level: number): number => 32 - Math.clz32(level)
const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** A column's chunk of a row group: what its metadata says, its levels, and what unpacks its pages. */
export interface ColumnChunk { metadata: ColumnMetaData, levels: Levels, rows: number, compressors: Compressors }

/**
 * Checks the pages of a column's chunk before a decoder that trusts them sees them: sizes that would be allocated, and runs that would be written out.
 * Throws Error with what is wrong. Values themselves are the decoder's to judge.
 */
export function checkPages(bytes: Uint8Array, chunk: ColumnChunk): void {
  const { metadata, levels, rows } = chunk
  const total = Number(metadata.num_values)
  expect(total >= 0 && total <= maxValues, `a column of ${total} values in one row group, where ${maxValues} can be read; write the file again with smaller row groups`)
  expect(levels.repetition > 0 ? total >= rows : total === rows, `column ${metadata.path_in_schema.join('.')} claims ${total} values for ${rows} rows`)
  const view = viewOf(bytes)
  const name = metadata.path_in_schema.join('.')
  let [at, seen] = [0, 0]
  while (seen < total) {
    expect(at < bytes.length, `column ${name} ends after ${seen} of ${total} values`)
    const reader = new ThriftReader(view, at)
    const header = reader.struct()
    const unpacked = field(header, 2, 'the unpacked size', maxPageBytes)
    const packed = field(header, 3, 'the size', bytes.length - reader.at)
    const body = bytes.subarray(reader.at, reader.at + packed)
    at = reader.at + packed
    switch (header.get(1)) {
      case 0: seen += checkDataPage(body, unpacked, part(header, 5), chunk, total - seen); break
      case 1: break
      case 2: field(part(header, 7), 1, 'the number of values', maxValues); break
      case 3: seen += checkDataPageV2(body, unpacked, part(header, 8), chunk, total - seen); break
      default: throw new Error(`column ${name} has a page of an unknown type`)
    }
  }
}

function unpack(body: Uint8Array, size: number, { metadata: { codec }, compressors }: ColumnChunk): Uint8Array {
  const page = codec === 'UNCOMPRESSED' ? body : compressors[codec]?.(body, size)
  expect(page !== undefined, `unknown compression ${codec}`)
  return page
}

/** Where dictionary indices, or flags, begin: a width and then runs. */
function checkIndices(page: Uint8Array, at: number, encoding: number, count: number, type: ColumnMetaData['type']): void {
  const view = viewOf(page)
  if (dictionaryEncodings.includes(encoding)) {
    const width = view.getUint8(at)
    if (width > 0) countRuns(view, at + 1, page.length, width, count, -1)
  } else if (encoding === rle) {
    expect(type === 'BOOLEAN', `${type} values cannot be runs`)
    countRuns(view, at + 4, page.length, 1, count, -1)
  }
}

/** Levels with their length before them, then values, all of it compressed. */
function checkDataPage(body: Uint8Array, size: number, header: ThriftStruct | undefined, chunk: ColumnChunk, left: number): number {
  const count = field(header, 1, 'the number of values', left)
  const page = unpack(body, size, chunk)
  const view = viewOf(page)
  let [at, present] = [0, count]
  for (const level of [chunk.levels.repetition, chunk.levels.definition]) {
    if (level === 0) continue
    const end = at + 4 + view.getUint32(at, true)
    present = countRuns(view, at + 4, end, widthOf(level), count, level)
    at = end
  }
  if (chunk.levels.definition === 0) present = count
  checkIndices(page, at, field(header, 2, 'the encoding', 255), present, chunk.metadata.type)
  return count
}

/** Levels without compression, their lengths in the header, then values. */
function checkDataPageV2(body: Uint8Array, size: number, header: ThriftStruct | undefined, chunk: ColumnChunk, left: number): number {
  const count = field(header, 1, 'the number of values', left)
  const nulls = field(header, 2, 'the number of nulls', count)
  field(header, 3, 'the number of rows', count)
  const definition = field(header, 5, 'the size of the definition levels', body.length)
  const repetition = field(header, 6, 'the size of the repetition levels', body.length - definition)
  const view = viewOf(body)
  const { levels, metadata } = chunk
  if (levels.repetition > 0) countRuns(view, 0, repetition, widthOf(levels.repetition), count, -1)
  if (levels.definition > 0) {
    const present = countRuns(view, repetition, repetition + definition, widthOf(levels.definition), count, levels.definition)
    expect(present === count - nulls, `a page of ${count} values with ${nulls} nulls holds ${present}`)
  }
  const rest = body.subarray(repetition + definition)
  const valueBytes = size - repetition - definition
  const page = header!.get(7) === false || valueBytes === 0 ? rest : unpack(rest, valueBytes, chunk)
  checkIndices(page, 0, field(header, 4, 'the encoding', 255), count - nulls, metadata.type)
  return count
}
