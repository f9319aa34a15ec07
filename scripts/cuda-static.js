// Checks the machine code of every CUDA kernel without a GPU: registers, spills, occupancy, tensor instructions, widths of accesses, FP64, calls.
// The numbers are compared with tests/recorded/cuda/static.json, so that a change of a kernel shows what it cost.
// usage: node scripts/cuda-static.js [--check] [--update] [--all] [--arch sm_80,sm_90] [file …]
// Of sm_80 and sm_90 every number is recorded; sm_86, sm_89 and sm_120 are held to the rules alone, and which sources kept them is recorded.
// --check exits with 1 and a sentence for each violation; --update records the numbers. A file whose sources are those recorded is not compiled again
// unless --all is given: its recorded numbers stand for it. Without nvcc changed files are not checked; without cuobjdump (on the PATH, in CUOBJDUMP or
// /usr/local/cuda/bin) only what ptxas says of them is.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { compileCubin, compilerVersion, findCompiler, findDisassembler, inParallel, kernelFiles, root, runTool, sourcesOf } from './cuda-compile.js'
import { blocksPerMultiprocessor, columns, demangle, describeInstructions, parseDisassembly, parseResources, parseThreads } from './cuda-report.js'
import { isAllowed, rules } from './cuda-rules.js'

const recordedPath = join(root, 'tests/recorded/cuda/static.json')
const fromCode = ['tensor', 'local', 'wide', 'narrow', 'async', 'asyncNarrow', 'double', 'calls', 'loop']

/** What is known of the kernels of one file, by their plain names. */
export function describeFile({ arch, ptx, log }, disassembly) {
  const resources = parseResources(log)
  const threads = parseThreads(ptx)
  const code = disassembly === undefined ? undefined : parseDisassembly(disassembly)
  const mangled = [...resources.keys()].sort()
  const names = demangle(mangled)
  return Object.fromEntries(mangled.map((symbol, index) => {
    const kernel = { threads: threads.get(symbol) ?? 1024, ...resources.get(symbol) }
    kernel.blocks = blocksPerMultiprocessor(arch, kernel)
    return [names[index], code ? { ...kernel, ...describeInstructions(arch, code.get(symbol) ?? []) } : kernel]
  }))
}

/** Sentences on what a kernel's numbers break, of the rules alone and against those recorded. */
export function violations(arch, name, kernel, recorded) {
  const found = []
  const say = (text) => found.push(`${arch}: ${name} ${text}`)
  for (const { key, only = arch, applies, holds, text } of rules)
    if (only === arch && kernel[key] !== undefined && applies(name) && !holds(kernel, name) && !isAllowed(key, name, arch, kernel[key])) say(text(kernel, name))
  if (!recorded) return found
  const explain = 'if that is meant, say why in the commit and run node scripts/cuda-static.js --update'
  if (Math.abs(kernel.registers - recorded.registers) > Math.max(4, recorded.registers / 10)) say(`has ${kernel.registers} registers where ${recorded.registers} are recorded; ${explain}`)
  if (kernel.blocks < recorded.blocks) say(`lets ${kernel.blocks} blocks run at once where ${recorded.blocks} are recorded; ${explain}`)
  if (kernel.shared !== recorded.shared) say(`has ${kernel.shared} bytes of static shared memory where ${recorded.shared} are recorded; ${explain}`)
  if (kernel.tensor === undefined || recorded.tensor === undefined) return found
  if (kernel.tensor !== recorded.tensor) say(`has ${kernel.tensor} tensor instructions where ${recorded.tensor} are recorded; ${explain}`)
  if (kernel.calls > recorded.calls) say(`has ${kernel.calls} calls where ${recorded.calls} are recorded; ${explain}`)
  if (kernel.wide < recorded.wide && kernel.narrow > recorded.narrow) say(`has ${kernel.wide} global accesses of 16 bytes and ${kernel.narrow} narrower ones where ${recorded.wide} and ${recorded.narrow} are recorded; ${explain}`)
  return found
}

const pack = (kernel) => columns.map((column) => kernel[column] ?? null)
const unpack = (values) => Object.fromEntries(columns.map((column, index) => [column, values[index] ?? undefined]))

/** The recorded file's text: a line for each kernel, so that a change reads well. */
export function formatRecorded({ nvcc, kernels, kept }) {
  const parts = Object.entries(kernels).map(([arch, files]) => {
    const inner = Object.keys(files).sort().map((file) => {
      const lines = Object.entries(files[file].kernels).map(([name, values]) => `      ${JSON.stringify(name)}: ${JSON.stringify(values)}`)
      return `    ${JSON.stringify(file)}: { "sources": ${JSON.stringify(files[file].sources)}, "kernels": {\n${lines.join(',\n')}\n    } }`
    })
    return `  ${JSON.stringify(arch)}: {\n${inner.join(',\n')}\n  }`
  })
  const rest = Object.entries(kept).map(([arch, files]) => `    ${JSON.stringify(arch)}: {\n${Object.keys(files).sort().map((file) => `      ${JSON.stringify(file)}: ${JSON.stringify(files[file])}`).join(',\n')}\n    }`)
  return `{\n  "nvcc": ${JSON.stringify(nvcc)},\n  "columns": ${JSON.stringify(columns)},\n${parts.join(',\n')},\n  "kept": {\n${rest.join(',\n')}\n  }\n}\n`
}

function table(arch, kernels) {
  const header = ['kernel', 'threads', 'regs', 'smem', 'stack', 'spills', 'blocks', 'mma', 'LDL/STL', '16 B', 'narrow', 'cp.async', 'below 16 B', 'FP64', 'calls', 'loop: issue, tensor, special, smem']
  const rows = Object.entries(kernels).map(([name, kernel]) => [name.length > 70 ? `${name.slice(0, 69)}…` : name, ...pack(kernel).map((value) => Array.isArray(value) ? value.join(' ') : String(value ?? '-'))])
  const widths = header.map((title, index) => Math.max(title.length, ...rows.map((row) => row[index].length)))
  const line = (cells) => cells.map((cell, index) => index === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[index])).join('  ').trimEnd()
  return [`# ${arch}`, line(header), ...rows.map(line)].join('\n')
}

const unpackAll = (kernels) => Object.fromEntries(Object.entries(kernels).map(([name, values]) => [name, unpack(values)]))

/** The architectures whose numbers are recorded, and those that are held to the rules: their machine code is made of sm_80's PTX, as a driver would make it. */
const measured = ['sm_80', 'sm_90']
const ruled = ['sm_86', 'sm_89', 'sm_120']

/** The kernels of one file on one architecture: recorded where nothing has changed, else compiled; undefined where that needs nvcc and there is none. */
async function examine(name, arch, tools, recorded, all) {
  const sources = sourcesOf(name)
  if (!all && recorded?.sources === sources) return { name, arch, sources, kernels: unpackAll(recorded.kernels ?? {}), compiled: false }
  if (!tools.nvcc) return undefined
  const compiled = await compileCubin(tools.nvcc, tools.version, name, arch, ruled.includes(arch) ? 'sm_80' : arch)
  return { name, arch, sources, compiled: true, kernels: describeFile(compiled, tools.disassembler && await runTool(tools.disassembler, ['-sass', compiled.cubin])) }
}

async function main(args) {
  const take = (flag) => {
    const at = args.indexOf(flag)
    return at >= 0 && args.splice(at, 1).length === 1
  }
  const [check, update, all] = [take('--check'), take('--update'), take('--all')]
  const at = args.indexOf('--arch')
  const arches = at < 0 ? [...measured, ...ruled] : args.splice(at, 2)[1].split(',')
  const nvcc = findCompiler()
  const tools = { nvcc, disassembler: findDisassembler(), version: nvcc && compilerVersion(nvcc) }
  if (!nvcc) console.log('cuda-static: nvcc was not found; kernels that have changed since their numbers were recorded are not checked')
  else if (!tools.disassembler) console.log('cuda-static: cuobjdump was not found; of kernels that have changed only what ptxas says is checked')
  const existing = new Set(kernelFiles())
  const files = args.length ? args : [...existing]
  const recorded = existsSync(recordedPath) ? JSON.parse(readFileSync(recordedPath, 'utf8')) : { nvcc: tools.version }
  const comparable = !update && (!nvcc || recorded.nvcc === tools.version)
  if (!comparable && !update) console.log(`cuda-static: the numbers were recorded with nvcc ${recorded.nvcc}, not ${tools.version}; what is compiled is held to the rules only`)

  const work = files.flatMap((name) => arches.map((arch) => ({ name, arch })))
  const examined = (await inParallel(work, 2, ({ name, arch }) => examine(name, arch, tools, ruled.includes(arch) ? { sources: recorded.kept?.[arch]?.[name] } : recorded[arch]?.[name], all || (update && recorded.nvcc !== tools.version)))).filter(Boolean)
  const problems = []
  const kernels = Object.fromEntries(measured.filter((arch) => arches.includes(arch)).map((arch) => [arch, {}]))
  const kept = Object.fromEntries(ruled.map((arch) => [arch, Object.fromEntries(Object.entries(recorded.kept?.[arch] ?? {}).filter(([file]) => existing.has(file)))]))
  for (const { name: file, arch, sources, kernels: list, compiled } of examined) {
    if (ruled.includes(arch)) {
      const broken = Object.entries(list).flatMap(([name, kernel]) => violations(arch, name, kernel))
      problems.push(...broken)
      if (broken.length === 0) kept[arch][file] = sources
      continue
    }
    const known = unpackAll(recorded[arch]?.[file]?.kernels ?? {})
    for (const [name, kernel] of Object.entries(list)) problems.push(...violations(arch, name, kernel, comparable && compiled ? known[name] : undefined))
    const differing = [...Object.keys(list).filter((name) => !known[name]), ...Object.keys(known).filter((name) => !list[name])]
    if (comparable && differing.length > 0) problems.push(`${arch}: ${file}.cu and the recorded numbers differ in ${differing.length} kernels, such as ${differing[0]}; run node scripts/cuda-static.js --update`)
    kernels[arch][file] = { sources, kernels: Object.fromEntries(Object.entries(list).map(([name, kernel]) => {
      const kept = tools.disassembler || !compiled ? {} : Object.fromEntries(fromCode.map((key) => [key, known[name]?.[key]]))
      return [name, pack({ ...kernel, ...kept })]
    })) }
  }
  for (const arch of arches) {
    console.log(table(arch, Object.assign({}, ...examined.filter((one) => one.arch === arch).map((one) => one.kernels))))
    if (args.length === 0 && comparable) for (const gone of Object.keys((ruled.includes(arch) ? recorded.kept?.[arch] : recorded[arch]) ?? {})) if (!files.includes(gone)) problems.push(`${arch}: ${gone}.cu is recorded but is no more; run node scripts/cuda-static.js --update`)
  }
  if (update && nvcc) {
    const merged = Object.fromEntries(measured.map((arch) => [arch, kernels[arch] && args.length === 0 ? kernels[arch] : { ...recorded[arch], ...kernels[arch] }]))
    mkdirSync(dirname(recordedPath), { recursive: true })
    writeFileSync(recordedPath, formatRecorded({ nvcc: tools.version, kernels: merged, kept }))
  }
  for (const problem of problems) console.error(problem)
  return problems.length === 0 || !check
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) process.exitCode = await main(process.argv.slice(2)) ? 0 : 1
