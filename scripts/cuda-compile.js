// Compiles the CUDA kernels to PTX and to machine code with nvcc, for the interpreter of native/simt and for scripts/cuda-static.js. Nothing here needs
// a GPU. A file is compiled again when it, one of its headers or the compiler has changed; the results lie in build-simt/.
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('..', import.meta.url))
const folder = join(root, 'native/cuda')
const flags = ['-std=c++20', '-O3', '--expt-relaxed-constexpr']

/** A tool of the CUDA toolkit: from its variable, the PATH or the usual folder; undefined where it is absent. */
function findTool(name, variable) {
  const candidates = [process.env[variable], name, `/usr/local/cuda/bin/${name}`].filter(Boolean)
  return candidates.find((path) => spawnSync(path, ['--version'], { stdio: 'ignore' }).status === 0)
}
export const findCompiler = () => findTool('nvcc', 'NVCC')
export const findDisassembler = () => findTool('cuobjdump', 'CUOBJDUMP')
export const compilerVersion = (nvcc) => /release [\d.]+, V([\d.]+)/.exec(spawnSync(nvcc, ['--version'], { encoding: 'utf8' }).stdout)?.[1] ?? 'unknown'

/** The names of the kernel files, without ".cu". */
export const kernelFiles = () => readdirSync(folder).filter((name) => name.endsWith('.cu')).map((name) => name.slice(0, -3)).sort()

/** A file of this repository with all that it includes from this repository. */
function withHeaders(file, seen = new Set()) {
  if (seen.has(file) || !existsSync(file)) return seen
  seen.add(file)
  for (const [, header] of readFileSync(file, 'utf8').matchAll(/^\s*#\s*include "([^"]+)"/gm)) withHeaders(resolve(dirname(file), header), seen)
  return seen
}

function hashOf(file, options) {
  const hash = createHash('sha256').update(options.join(' '))
  for (const source of [...withHeaders(file)].sort()) hash.update(`\n${relative(root, source)}\n`).update(readFileSync(source))
  return hash.digest('hex')
}

/** Changes with the kernel file, its headers and the flags; not with the compiler. */
export const sourcesOf = (name) => hashOf(join(folder, `${name}.cu`), flags).slice(0, 16)

function run(command, args) {
  return new Promise((done, fail) => {
    const child = spawn(command, args, { cwd: root })
    let text = ''
    child.stdout.on('data', (part) => { text += part })
    child.stderr.on('data', (part) => { text += part })
    child.on('error', fail)
    child.on('close', (status) => {
      if (status === 0) done(text)
      else fail(new Error(`${basename(command)} ${args.join(' ')} failed:\n${text}`))
    })
  })
}
export { run as runTool }

/** Calls `body` for all items, `width` at a time; the results in the items' order. */
export async function inParallel(items, width, body) {
  const results = []
  let next = 0
  const worker = async () => {
    while (next < items.length) {
      const index = next++
      results[index] = await body(items[index])
    }
  }
  await Promise.all(Array.from({ length: width }, worker))
  return results
}

/** The folder of the PTX that the interpreter reads. */
export const ptxFolder = (arch) => join(root, 'build-simt', arch === 'sm_90' ? 'ptx' : `ptx-${arch}`)

/** Compiles one kernel file to PTX; the path of the result. */
export async function compilePtx(nvcc, version, name, arch) {
  const source = join(folder, `${name}.cu`)
  const to = join(ptxFolder(arch), `${name}.ptx`)
  const hash = hashOf(source, [version, arch, ...flags])
  if (existsSync(to) && existsSync(`${to}.hash`) && readFileSync(`${to}.hash`, 'utf8') === hash) return to
  mkdirSync(dirname(to), { recursive: true })
  await run(nvcc, [...flags, `-arch=${arch}`, '-ptx', source, '-o', `${to}.part`])
  renameSync(`${to}.part`, to)
  writeFileSync(`${to}.hash`, hash)
  return to
}

/**
 * Compiles one kernel file to machine code; its PTX, the cubin's path and what ptxas says of it. No kernel asks which architecture it is compiled for, so
 * that the PTX of `from` serves newer ones.
 */
export async function compileCubin(nvcc, version, name, arch, from = arch) {
  const ptx = await compilePtx(nvcc, version, name, from)
  const cubin = join(root, 'build-simt/cubin', `${name}.${arch}.cubin`)
  const hash = readFileSync(`${ptx}.hash`, 'utf8')
  if (!existsSync(cubin) || !existsSync(`${cubin}.hash`) || readFileSync(`${cubin}.hash`, 'utf8') !== hash) {
    mkdirSync(dirname(cubin), { recursive: true })
    rmSync(`${cubin}.hash`, { force: true })
    writeFileSync(`${cubin}.txt`, await run(nvcc, [`-arch=${arch}`, '-Xptxas', '-v', '-cubin', ptx, '-o', cubin]))
    writeFileSync(`${cubin}.hash`, hash)
  }
  return { name, arch, cubin, ptx: readFileSync(ptx, 'utf8'), log: readFileSync(`${cubin}.txt`, 'utf8') }
}

/** Removes the PTX of files that are no more. */
export function removeStale(arch) {
  if (!existsSync(ptxFolder(arch))) return
  const names = new Set(kernelFiles())
  for (const file of readdirSync(ptxFolder(arch))) if (!names.has(file.split('.')[0])) rmSync(join(ptxFolder(arch), file), { recursive: true })
}
