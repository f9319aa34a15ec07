// Measures the machine's peaks with bench/native/peaks.cc, which is built on first use.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export interface Peaks {
  readonly threads: number
  /** GFLOP/s of float32 multiply-adds by instruction set; of bfloat16 dot products for avx512bf16. */
  readonly gflops: Readonly<Record<string, number>>
  /** GB/s far beyond the caches. A copy counts what is read and what is written. */
  readonly read: number
  readonly copy: number
}

const build = fileURLToPath(new URL('../build', import.meta.url))

export function measurePeaks(threads: number): Peaks {
  if (!existsSync(`${build}/CMakeCache.txt`)) throw new Error('the peaks are measured by a program that needs the build folder; run npm run build:native')
  const made = spawnSync('cmake', ['--build', build, '--config', 'Release', '--target', 'peaks'], { encoding: 'utf8' })
  const program = [`${build}/peaks`, `${build}/Release/peaks`].find((path) => existsSync(path))
  if (made.status !== 0 || !program) throw new Error(`cmake could not build the target "peaks":\n${made.stdout}${made.stderr}`)
  const { stdout } = spawnSync(program, [String(threads)], { encoding: 'utf8' })
  return JSON.parse(stdout) as Peaks
}

/** The peak that a product in a dtype on an instruction set is compared with. */
export function productPeak(peaks: Peaks, isa: string, dtype: string): number | undefined {
  const halved = isa === 'avx512bf16' && dtype === 'bfloat16'
  return peaks.gflops[isa === 'avx512bf16' && !halved ? 'avx512' : isa]
}
