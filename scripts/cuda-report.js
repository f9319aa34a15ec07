// Reads what nvcc and cuobjdump say of kernels: resources, and the instructions of their machine code with a model of the hottest loop's cycles.
import { spawnSync } from 'node:child_process'

/** What the rules and the recorded numbers speak of, in this order. */
export const columns = ['threads', 'registers', 'shared', 'stack', 'spills', 'blocks', 'tensor', 'local', 'wide', 'narrow', 'async', 'asyncNarrow', 'double', 'calls', 'loop']

// Registers and shared memory of a multiprocessor, blocks and threads at most; cycles of a warp's mma.sync.m16n8k16 and of a special function.
const machines = {
  sm_80: { registers: 65536, shared: 164 * 1024, blocks: 32, threads: 2048, tensor: 8, special: 8 },
  sm_86: { registers: 65536, shared: 100 * 1024, blocks: 16, threads: 1536, tensor: 16, special: 8 },
  sm_89: { registers: 65536, shared: 100 * 1024, blocks: 24, threads: 1536, tensor: 16, special: 8 },
  sm_90: { registers: 65536, shared: 228 * 1024, blocks: 32, threads: 2048, tensor: 6.3, special: 8 },
  sm_120: { registers: 65536, shared: 100 * 1024, blocks: 24, threads: 1536, tensor: 16, special: 8 },
}

/** Names as a C++ programmer writes them, without result, parameters and the project's namespaces. */
export function demangle(names) {
  const { status, stdout } = spawnSync('c++filt', { input: names.join('\n'), encoding: 'utf8' })
  const plain = status === 0 ? stdout.trimEnd().split('\n') : names
  return plain.map((name) => {
    let depth = 0
    let end = 0
    for (; end < name.length; ++end) {
      if (name[end] === '<') ++depth
      if (name[end] === '>') --depth
      if (name[end] === '(' && depth === 0) break
    }
    return name.slice(0, end).replace(/^void /, '').replaceAll('anneal::cuda::', '').replaceAll('anneal::', '')
  })
}

/** By mangled name: registers, bytes of static shared memory, of stack and of spills. */
export function parseResources(log) {
  const kernels = new Map()
  let name
  let properties
  for (const line of log.split('\n')) {
    const entry = /Compiling entry function '([^']+)'/.exec(line)
    const of = /Function properties for (\S+)/.exec(line)
    const memory = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line)
    const used = /Used (\d+) registers/.exec(line)
    if (entry) name = entry[1]
    if (of) properties = of[1]
    if (memory && properties === name && name) kernels.set(name, { stack: Number(memory[1]), spills: Number(memory[2]) + Number(memory[3]) })
    if (used && name) Object.assign(kernels.get(name) ?? {}, { registers: Number(used[1]), shared: Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0) })
  }
  return kernels
}

/** By mangled name: the most threads that the kernel's launch bounds allow, 1024 where they say nothing. */
export function parseThreads(ptx) {
  const threads = new Map()
  for (const [, name, rest] of ptx.matchAll(/\.entry (\w+)\s*(\([^{]*)\{/g)) {
    const bounds = /\.maxntid (\d+)(?:, (\d+))?(?:, (\d+))?/.exec(rest)
    threads.set(name, bounds ? bounds.slice(1).reduce((product, part) => product * Number(part ?? 1), 1) : 1024)
  }
  return threads
}

/** Blocks of a kernel that a multiprocessor holds, as far as registers, threads and static shared memory say. */
export function blocksPerMultiprocessor(arch, { registers, threads, shared }) {
  const machine = machines[arch]
  const warps = Math.ceil(threads / 32)
  const perWarp = Math.ceil(registers * 32 / 256) * 256
  return Math.min(machine.blocks, Math.floor(machine.threads / (warps * 32)), Math.floor(Math.floor(machine.registers / perWarp) / warps), Math.floor(machine.shared / (shared + 1024)))
}

const instruction = /\/\*([0-9a-f]{4,6})\*\/\s+((?:@!?U?P\w+\s+)?)([A-Z][A-Z0-9_.]+)([^;]*);/g

/** By mangled name: the instructions of a disassembly, each with address, guard, opcode and operands. */
export function parseDisassembly(text) {
  const kernels = new Map()
  for (const part of text.split(/\n\s+Function : /).slice(1)) {
    const instructions = []
    for (const [, address, guard, opcode, operands] of part.matchAll(instruction)) {
      if (guard.trim() !== '@!PT') instructions.push({ address: parseInt(address, 16), guard: guard.trim(), opcode, operands })  // @!PT only fills a hazard
    }
    kernels.set(part.slice(0, part.indexOf('\n')).trim(), instructions)
  }
  return kernels
}

const count = (instructions, pattern) => instructions.reduce((sum, { opcode }) => sum + (pattern.test(opcode) ? 1 : 0), 0)

const isJump = ({ opcode }) => /^(BRA|JMP)/.test(opcode)
const targetOf = ({ operands }) => /(?:^|[\s,])0x([0-9a-f]+)/.exec(operands)?.[1]
const isConditional = ({ guard, operands }) => guard !== '' || /!?\bU?P\d/.test(operands)

/** The straight pieces of a kernel's code, each with the numbers of those that may follow. */
function piecesOf(instructions) {
  const byAddress = new Map(instructions.map(({ address }, index) => [address, index]))
  const jumpsTo = (instruction) => isJump(instruction) ? byAddress.get(parseInt(targetOf(instruction) ?? '', 16)) : undefined
  const starts = new Set([0])
  instructions.forEach((instruction, index) => {
    if (!isJump(instruction) && !/^(EXIT|RET|BSYNC|BRX)/.test(instruction.opcode)) return
    starts.add(index + 1)
    const target = jumpsTo(instruction)
    if (target !== undefined) starts.add(target)
  })
  const ordered = [...starts].filter((index) => index < instructions.length).sort((a, b) => a - b)
  const numberAt = new Map(ordered.map((start, number) => [start, number]))
  return ordered.map((start, number) => {
    const code = instructions.slice(start, ordered[number + 1])
    const last = code.at(-1)
    const ends = isJump(last) || /^(EXIT|RET)/.test(last.opcode)
    const target = jumpsTo(last)
    return { code, back: target < start + code.length - 1, next: [
      ...target === undefined ? [] : [numberAt.get(target)], ...(!ends || isConditional(last)) && number + 1 < ordered.length ? [number + 1] : [],
    ] }
  })
}

/** The instructions of the shortest way from one piece to another, both included; undefined where there is none. */
function shortestWay(pieces, from, to) {
  const reached = new Map([[from, { length: pieces[from].code.length, before: undefined }]])
  const open = new Set([from])
  while (open.size > 0) {
    const here = [...open].reduce((a, b) => reached.get(b).length < reached.get(a).length ? b : a)
    open.delete(here)
    if (here === to) break
    for (const one of pieces[here].next) {
      const length = reached.get(here).length + pieces[one].code.length
      if (length >= (reached.get(one)?.length ?? Infinity)) continue
      reached.set(one, { length, before: here })
      open.add(one)
    }
  }
  if (!reached.has(to)) return undefined
  const way = []
  for (let at = to; at !== undefined; at = reached.get(at).before) way.unshift(...pieces[at].code)
  return way
}

/**
 * Cycles of a warp in one round of the loop with most tensor instructions, else the longest, by what limits it: issue, tensor cores, special functions,
 * shared memory. A round goes the shortest way: that of a tile which nothing masks or caps.
 */
function modelLoop(arch, instructions) {
  const machine = machines[arch]
  const pieces = piecesOf(instructions)
  let best
  pieces.forEach(({ back, next }, number) => {
    const body = back ? shortestWay(pieces, next[0], number) : undefined
    if (!body) return
    const tensor = count(body, /^[HI]MMA/)
    if (!best || tensor > best.tensor || (tensor === best.tensor && (tensor > 0 ? body.length < best.body.length : body.length > best.body.length))) best = { tensor, body }
  })
  if (!best) return []
  const { tensor, body } = best
  // 128 bytes a cycle for the four schedulers of a multiprocessor.
  const shared = 4 * (4 * count(body, /^LDSM\.16\.M\w+\.4/) + 2 * count(body, /^LDSM\.16\.M\w+\.2/) + 4 * count(body, /^(LDS|STS|LDGSTS\.E\.BYPASS|LDGSTS\.E\.BYPASS\.\w+)\.128/) + 2 * count(body, /^(LDS|STS)\.64/) + count(body, /^(LDS|STS)(\.U\.?\d+|\.S\d+|\.U)?$/))
  return [body.length, Math.round(tensor * machine.tensor), machine.special * count(body, /^MUFU/), shared]
}

/** The counts that the rules speak of. */
export function describeInstructions(arch, instructions) {
  return {
    tensor: count(instructions, /^[HI]MMA/),
    local: count(instructions, /^(LDL|STL)/),
    wide: count(instructions, /^(LDG|STG|LD|ST)\.E.*\.128/),
    narrow: count(instructions, /^(LDG|STG|LD|ST)\.E(?!.*\.128)/),
    async: count(instructions, /^LDGSTS/),
    asyncNarrow: count(instructions, /^LDGSTS(?!.*\.128)/),
    double: count(instructions, /^D(ADD|FMA|MUL|SETP|MMA)|^MUFU\.\w*64H/),
    calls: count(instructions, /^CALL/),
    loop: modelLoop(arch, instructions),
  }
}
