// Runs JavaScript in a Node process of its own, in which `native` is the addon.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export const libPath = new URL('../../lib/index.js', import.meta.url).href

export interface Outcome { readonly status: number | null; readonly signal: string | null; readonly stdout: string; readonly stderr: string }

/** `code` may use await, `native`, `helpers` (multiply, busy), and `libPath`. */
export function run(code: string, { env = {}, args = [] }: { env?: Record<string, string>; args?: string[] } = {}): Outcome {
  const text = `const libPath = ${JSON.stringify(libPath)}\n${helpers}\nconst { native } = await import(libPath)\n${code}`
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [...args, '--input-type=module', '-e', text], {
    encoding: 'utf8', env: { ...process.env, ...env }, cwd: fileURLToPath(new URL('../..', import.meta.url)), timeout: 120_000,
  })
  return { status, signal, stdout, stderr }
}

/** For the process and for its workers. */
export const helpers = `
/** A product of two matrices of ones, checked. */
async function multiply(native, n = 64) {
  const [a, b, c] = [0, 0, 0].map(() => native.create(0, [n, n], 0))
  native.kernels.fill(a, 1)
  native.kernels.fill(b, 1)
  native.kernels.gemm(c, 0, a, b, 0, false, false, false, 0, false)
  const numbers = new Float32Array(await native.read(c))
  for (const handle of [a, b, c]) native.release(handle)
  if (numbers.length !== n * n || numbers.some((x) => x !== n)) throw new Error('wrong product')
}
/** Enqueues work for seconds. */
function busy(native, n = 1024) {
  const [a, b, c] = [0, 0, 0].map(() => native.create(0, [n, n], 0))
  native.kernels.fill(a, 1)
  native.kernels.fill(b, 1)
  for (let i = 0; i < 500; i++) native.kernels.gemm(c, 0, a, b, 0, false, false, false, 0, false)
}
`
