// Proves that the checks of the CUDA kernels see mistakes: injects known ones into copies of the kernels, runs the kernels' tests on the emulator, and
// prints which check sees which. A fault that none sees, or kernels without a fault that a check objects to, end with status 1.
//   node scripts/seed-faults.js [--quick] [--build=FOLDER of cmake, build-simt by default] [text that names must contain]
import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { faults as all } from './seeded-faults.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const quick = process.argv.includes('--quick')
const wanted = process.argv.slice(2).find((argument) => !argument.startsWith('--')) ?? ''
const built = resolve(root, process.argv.find((argument) => argument.startsWith('--build='))?.slice('--build='.length) ?? 'build-simt')
const folder = mkdtempSync(join(tmpdir(), 'anneal-faults-'))
const compiler = process.env.CXX ?? 'g++'

/** The two builds: where cmake put their objects, and how it compiles kernels. */
const builds = {
  plain: { target: 'anneal_simt', library: 'anneal-simt.so', objects: ['anneal_simt.dir'], flags: ['-O2'] },
  race: {
    target: 'anneal_simt_race', library: 'anneal-simt-race.so', objects: ['anneal_simt_race.dir', 'anneal_simt_race_kernels.dir'],
    flags: ['-DANNEAL_SIMT_HOOKS', '-O1', '-g1', '-gdwarf-4', '-fsanitize=thread', '--param=tsan-instrument-func-entry-exit=0'],
  },
}
/** The checks, cheapest first: a build and the environment of its run. */
const checks = {
  ascending: { build: 'plain', env: { ANNEAL_SIMT_ORDER: 'ascending' } },
  random: { build: 'plain', env: { ANNEAL_SIMT_ORDER: 'random', ANNEAL_SIMT_SEED: '2' } },
  race: { build: 'race', env: {} },
  profile: { build: 'race', env: { ANNEAL_SIMT_RACE: '0' } },
}

/** The objects of sources that there still are: cmake leaves those of removed files behind. "__" is how cmake writes a parent folder. */
function objectsUnder(path) {
  const isLive = (name) => existsSync(join(root, 'native/simt', name.slice(0, -'.o'.length).replaceAll('__', '..')))
  return readdirSync(path, { recursive: true }).map(String).filter((name) => name.endsWith('.o') && isLive(name)).map((name) => join(path, name))
}

/** The sources with the fault in them. @throws where the source has changed so that the fault no longer applies. */
function inject({ name, file, search, replace }) {
  const path = join(folder, 'native/cuda', file)
  let text = readFileSync(join(root, 'native/cuda', file), 'utf8')
  for (const [from, to] of Array.isArray(search) ? search : [[search, replace]]) {
    const parts = text.split(from)
    if (parts.length !== 2) throw new Error(`"${name}" does not apply: ${file} contains ${JSON.stringify(from)} ${parts.length - 1} times, not once`)
    text = parts.join(to)
  }
  writeFileSync(path, text)
}

function restore({ file }) {
  copyFileSync(join(root, 'native/cuda', file), join(folder, 'native/cuda', file))
}

/** Compiles the fault's kernels anew, links them with all else and returns the library. */
function build(fault, which) {
  const { library, objects, flags } = builds[which]
  const out = join(folder, which)
  mkdirSync(out, { recursive: true })
  const replaced = fault.compile.map((file) => {
    const object = join(out, `${file}.o`)
    execFileSync(compiler, ['-x', 'c++', '-std=c++20', '-fPIC', '-DANNEAL_SIMT', '-w', '-fno-strict-aliasing', ...flags, `-I${join(folder, 'native/simt')}`, '-c', join(folder, 'native/cuda', file), '-o', object], { stdio: 'inherit' })
    return object
  })
  const kept = objects.flatMap((directory) => objectsUnder(join(built, 'native/simt/CMakeFiles', directory))).filter((path) => !fault.compile.includes(basename(path, '.o')))
  const path = join(out, library)
  // Of a template that several objects have, the linker keeps the first: the emulator's before instrumented ones, the fault's before the others'.
  const isKernel = (object) => object.endsWith('.cu.o')
  execFileSync(compiler, ['-shared', ...kept.filter((object) => !isKernel(object)), ...replaced, ...kept.filter(isKernel), '-o', path, '-static-libstdc++', '-static-libgcc', '-pthread', '-ldl', '-Wl,-z,nodelete'], { stdio: 'inherit' })
  return path
}

/** Runs the tests with a library: what was found, empty if all passed. What ends the process must do so twice. A loaded machine is no finding: tests have time. */
function runTests(test, library, env) {
  const found = tryTests(test, library, env)
  return found[0] === 'crash' || found[0] === 'hang' ? tryTests(test, library, env) : found
}
function tryTests([file, filter], library, env) {
  const report = join(folder, 'report.json')
  rmSync(report, { force: true })
  const { status, signal } = spawnSync(process.execPath, [join(root, 'node_modules/vitest/vitest.mjs'), 'run', file, '-t', filter, '--testTimeout=600000', '--hookTimeout=600000', '--reporter=json', `--outputFile=${report}`], {
    cwd: root, env: { ...process.env, ...env, ANNEAL_SIMT_LIBRARY: library }, stdio: 'ignore', timeout: 1_200_000,
  })
  if (signal) return ['hang']
  if (!existsSync(report)) return ['crash']
  const { testResults } = JSON.parse(readFileSync(report, 'utf8'))
  const results = testResults.flatMap((result) => result.assertionResults).filter((result) => result.status === 'passed' || result.status === 'failed')
  if (results.length === 0) {
    if (status === 0) throw new Error(`${file} -t ${filter} runs no test`)
    return ['crash']
  }
  const kinds = new Set(results.filter((result) => result.status === 'failed').map((result) =>
    /(?:^|[ ;])(race|uninitialised|out-of-bounds|cp\.async|divergence|deadlock|misaligned|trap): /.exec(result.failureMessages.join('\n'))?.[1] ?? 'numbers'))
  return [...kinds].sort()
}

/** For each kernel and space what its accesses took over the least they could have. */
function profileOf(test, library) {
  const profiles = mkdtempSync(join(folder, 'profile-'))
  const found = runTests(test, library, { ...checks.profile.env, ANNEAL_SIMT_PROFILE: join(profiles, '%p.json') })
  const sums = {}
  for (const file of readdirSync(profiles)) {
    for (const { kernel, sites } of JSON.parse(readFileSync(join(profiles, file), 'utf8')).kernels) {
      for (const { space, wavefronts, sectors, ideal } of sites) {
        const sum = sums[`${kernel} ${space}`] ??= { taken: 0, ideal: 0 }
        sum.taken += wavefronts ?? sectors
        sum.ideal += ideal
      }
    }
  }
  return { found, ratios: Object.fromEntries(Object.entries(sums).map(([name, { taken, ideal }]) => [name, taken / ideal])) }
}

/** What a check finds with a library, against what it finds without the fault. */
function look(check, fault, library, profiles) {
  if (check !== 'profile') return runTests(fault.test, library, checks[check].env)
  const { ratios } = profileOf(fault.test, library)
  const worse = Object.entries(ratios).map(([name, ratio]) => ({ name, ratio, before: profiles[name] ?? 1 })).filter(({ ratio, before }) => ratio > 1.25 * before)
  worse.sort((a, b) => b.ratio / b.before - a.ratio / a.before)
  return worse.slice(0, 1).map(({ ratio, before }) => `${before.toFixed(2)} → ${ratio.toFixed(2)}`)
}

function main() {
  const faults = all.filter(({ name, quick: inQuick }) => name.includes(wanted) && (!quick || inQuick))
  if (faults.length === 0) throw new Error(`no fault's name contains "${wanted}"`)
  const targets = quick ? new Set(faults.map((fault) => builds[checks[fault.quick].build].target)) : Object.values(builds).map(({ target }) => target)
  execFileSync('cmake', ['--build', built, '--parallel', '2', '--target', ...targets], { stdio: ['ignore', 'ignore', 'inherit'] })
  // All must apply, also those that do not run: a changed kernel shows at once.
  cpSync(join(root, 'native'), join(folder, 'native'), { recursive: true })
  const outdated = all.flatMap((fault) => {
    try {
      inject(fault)
      return []
    } catch (error) {
      return [error.message]
    } finally {
      restore(fault)
    }
  })
  if (outdated.length > 0) throw new Error(`the kernels have changed; bring scripts/seeded-faults.js up to date:\n${outdated.join('\n')}`)
  const checksOf = (fault) => quick ? [fault.quick] : fault.slow ? ['ascending', 'race', 'profile'] : ['ascending', 'random', 'race']
  let failures = 0

  const profiles = {}
  for (const { test } of new Map(faults.map((fault) => [fault.test.join(), fault])).values()) {
    const same = faults.filter((fault) => fault.test.join() === test.join())
    for (const check of new Set(same.flatMap(checksOf))) {
      const library = join(built, builds[checks[check].build].library)
      const { found, ratios } = check === 'profile' ? profileOf(test, library) : { found: runTests(test, library, checks[check].env), ratios: undefined }
      if (ratios) profiles[test.join()] = ratios
      if (found.length > 0) throw new Error(`without a fault, ${check} finds ${found.join(', ')} in: npx vitest run ${test[0]} -t ${JSON.stringify(test[1])}`)
    }
  }

  const names = Object.keys(checks)
  console.log(`| fault | ${names.join(' | ')} |\n|${'---|'.repeat(names.length + 1)}`)
  for (const fault of faults) {
    inject(fault)
    const libraries = {}
    const cells = Object.fromEntries(names.map((name) => [name, '']))
    let seen = false
    for (const check of checksOf(fault)) {
      const library = libraries[checks[check].build] ??= build(fault, checks[check].build)
      const found = look(check, fault, library, profiles[fault.test.join()] ?? {})
      seen ||= found.length > 0
      cells[check] = found.join(', ') || 'missed'
    }
    restore(fault)
    if (!seen) failures++
    console.log(`| ${fault.name}${seen ? '' : ' **(seen by none)**'} | ${names.map((name) => cells[name]).join(' | ')} |`)
  }
  return failures
}

try {
  process.exitCode = main() === 0 ? 0 : 1
} finally {
  rmSync(folder, { recursive: true, force: true })
}
