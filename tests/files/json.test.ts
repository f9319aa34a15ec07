// Proves that JSON errors name file, line and column, and that the strict parser agrees with JSON.parse on everything it accepts.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { FileFormatError } from '../../src/errors.ts'
import { FileAccessError } from '../../src/errors.ts'
import { findJsonProblem, lineAndColumn, parseJson, parseStrictJson, readJson, readJsonObject } from '../../src/files/json.ts'
import { temporaryFolder } from './helpers.ts'

describe('findJsonProblem', () => {
  it('accepts what JSON.parse accepts, with the same value', () => {
    fc.assert(fc.property(fc.json({ maxDepth: 5 }), (text) => {
      expect(findJsonProblem(text)).toBeUndefined()
      expect(parseStrictJson(text, 'x', {})).toEqual(JSON.parse(text))
    }), { numRuns: 500 })
  })

  it('refuses exactly what JSON.parse refuses', () => {
    const piece = fc.constantFrom('{', '}', '[', ']', ':', ',', '"', '"a"', '\\', '\\u00e9', '1', '0', '-', '.', 'e', '1e5', 'true', 'null', ' ', '\n', '\t', '\u0001', '\ufeff', '\u2028', 'é', 'NaN')
    fc.assert(fc.property(fc.array(piece, { maxLength: 10 }).map((parts) => parts.join('')), (text) => {
      let parses = true
      try { JSON.parse(text) } catch { parses = false }
      expect(findJsonProblem(text) === undefined).toBe(parses)
    }), { numRuns: 5000 })
  })

  it.each([
    ['{"a":1 "b":2}', 1, 8, 'expected "," or "}" after a value, got "\\""'],
    ['{\n  "a": 1,\n}', 3, 1, 'expected a name in double quotes, got "}"'],
    ['[1,\r\n2,\r\n]', 3, 1, 'expected a value, got "]"'],
    ['{"a": NaN}', 1, 7, 'NaN is not JSON'],
    ['{\'a\': 1}', 1, 2, 'expected a name in double quotes, got "\'"'],
    ['"abc', 1, 1, 'a string is not closed'],
    ['"a\nb"', 1, 3, 'control character'],
    ['"\\x"', 1, 2, 'unknown escape'],
    ['{"a":01}', 1, 6, 'malformed number'],
    ['', 1, 1, 'expected a value, got the end of the file'],
    ['{} x', 1, 4, 'expected the end of the file, got "x"'],
    ['{"a"', 1, 5, 'expected ":" after a name, got the end of the file'],
  ])('%j', (text, line, column, message) => {
    const problem = findJsonProblem(text)
    expect(problem).toMatchObject({ line, column })
    expect(problem!.message).toContain(message)
  })

  it('does not overflow the stack', () => { expect(findJsonProblem('['.repeat(1e6))?.message).toMatch(/nested deeper than 512/) })
})

describe('strict rules', () => {
  it('refuses a name twice, at its place', () => {
    expect(() => parseStrictJson('{"a":1,\n "a":2}', 'f.json', { uniqueKeys: true })).toThrow('f.json:2:2: the name "a" stands twice')
    expect(() => parseStrictJson('{"a":1,"\\u0061":2}', 'f', { uniqueKeys: true })).toThrow(FileFormatError)
    expect(() => parseStrictJson('{"__proto__":1,"__proto__":2}', 'f', { uniqueKeys: true })).toThrow(FileFormatError)
  })

  it.each(['1.0', '-1', '1e3', '9007199254740992', '-0'])('refuses %s where whole numbers are due', (text) => {
    expect(() => parseStrictJson(text, 'f', { wholeNumbers: true })).toThrow(/f:1:1: expected a whole number/)
  })

  it('keeps __proto__ an ordinary name', () => {
    const value = parseStrictJson('{"__proto__":{"polluted":1}}', 'f', {}) as object
    expect(Object.keys(value)).toEqual(['__proto__'])
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
  })
})

describe('files', () => {
  it('names file, line and column', async () => {
    const path = join(temporaryFolder(), 'config.json')
    writeFileSync(path, '{\n  "a": 1\n  "b": 2\n}')
    await expect(readJson(path)).rejects.toThrow(`${path}:3:3: expected "," or "}" after a value, got "\\""; fix the file or fetch it again`)
  })

  it('takes a byte order mark, refuses other encodings', async () => {
    const path = join(temporaryFolder(), 'a.json')
    writeFileSync(path, '\ufeff{"a":"é"}')
    expect(await readJson(path)).toEqual({ a: 'é' })
    writeFileSync(path, Buffer.from('{"a":"é"}', 'latin1'))
    await expect(readJson(path)).rejects.toThrow(`${path}: expected UTF-8 text`)
    expect(parseJson('\ufeff1', 'x')).toBe(1)
  })

  it('refuses too large, missing and wrong files', async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, 'a'), '[1]')
    mkdirSync(join(folder, 'd'))
    await expect(readJson(join(folder, 'a'), 2)).rejects.toThrow(/expected at most 2 bytes of JSON, got 3 bytes/)
    await expect(readJsonObject(join(folder, 'a'))).rejects.toThrow(/expected a JSON object, got an array/)
    await expect(readJson(join(folder, 'no'))).rejects.toThrow(FileAccessError)
    await expect(readJson(join(folder, 'd'))).rejects.toThrow(/it is a folder/)
  })

  it('counts lines by LF, CRLF and CR', () => {
    expect(lineAndColumn('a\nb\r\nc\rd', 8)).toEqual({ line: 4, column: 2 })
    expect(lineAndColumn('ab', 2)).toEqual({ line: 1, column: 3 })
  })
})
