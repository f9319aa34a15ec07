// Makes the packages to publish in build-release/: anneal, and beside it one package for each platform that was built. A platform's package holds nothing
// but the binary; anneal names all of them as optional dependencies, of which npm installs the one that fits. Where none fits, anneal is built when it is
// installed. On each platform: npm run build && npm run pack; publish the platforms' packages first.
import { execFileSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const main = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const { version, license, engines } = main
export const release = join(root, 'build-release')

/** The platforms with packages. GPU libraries are packages of their own, which the addon loads where it is asked for a GPU. */
export const platforms = {
  '@anneal/linux-x64-gnu': { os: ['linux'], cpu: ['x64'], libc: ['glibc'] },
  '@anneal/linux-x64-gnu-cuda': { os: ['linux'], cpu: ['x64'], libc: ['glibc'] },
  '@anneal/linux-arm64-gnu': { os: ['linux'], cpu: ['arm64'], libc: ['glibc'] },
}

/** The newest version of the C library that a binary asks for. */
function neededGlibc(file) {
  const versions = [...readFileSync(file).toString('latin1').matchAll(/\0GLIBC_2\.(\d+)(?=\0)/g)].map(([, minor]) => Number(minor))
  return versions.length > 0 ? `glibc 2.${Math.max(...versions)}` : undefined
}

/** The folder of a platform's package around a binary, with everything off it that only debuggers read. */
export function platformPackage(name, binary) {
  const folder = join(release, name)
  const file = name.endsWith('-cuda') ? 'anneal-cuda.so' : 'anneal.node'
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  copyFileSync(binary, join(folder, file))
  execFileSync(process.env.STRIP ?? 'strip', ['--strip-unneeded', join(folder, file)])
  const glibc = neededGlibc(join(folder, file))
  const what = name.endsWith('-cuda') ? 'The CUDA backend' : 'The native addon'
  writeFileSync(join(folder, 'README.md'), `# ${name}\n\n${what} of [anneal](https://www.npmjs.com/package/anneal) for ${name.replace('@anneal/', '')}${glibc ? `; it needs ${glibc} or newer` : ''}. anneal installs it where it fits.\n`)
  copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'))
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify({ name, version, description: `${what} of anneal for ${name.replace('@anneal/', '')}`, license, engines, ...platforms[name], main: file, files: [file] }, undefined, 2)}\n`)
  return folder
}

/** The folder of anneal itself: what its package.json lists, with the platforms' packages as optional dependencies of the same version. */
export function mainPackage() {
  const folder = join(release, 'anneal')
  rmSync(folder, { recursive: true, force: true })
  for (const file of ['README.md', 'LICENSE', ...main.files.filter((name) => !name.startsWith('!'))]) cpSync(join(root, file), join(folder, file), { recursive: true })
  const { scripts, devDependencies: _, ...rest } = main
  const optionalDependencies = { ...main.optionalDependencies, ...Object.fromEntries(Object.keys(platforms).map((name) => [name, version])) }
  const kept = Object.fromEntries(Object.entries(scripts).filter(([name]) => ['install', 'build:native', 'build:cuda', 'build:gyp'].includes(name)))
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify({ ...rest, scripts: kept, optionalDependencies }, undefined, 2)}\n`)
  return folder
}

/** The packages that can be made of what is built here, by name: folder and tarball. */
export function pack() {
  const built = { addon: join(root, 'build/Release/anneal.node'), cuda: join(root, 'build/Release/anneal-cuda.so') }
  if (!existsSync(built.addon) || !existsSync(join(root, 'dist/index.js'))) throw new Error('there is nothing to pack: run npm run build first')
  const host = `@anneal/${process.platform}-${process.arch}${process.platform === 'linux' ? '-gnu' : ''}`
  const folders = { anneal: mainPackage() }
  if (platforms[host]) folders[host] = platformPackage(host, built.addon)
  if (platforms[`${host}-cuda`] && existsSync(built.cuda)) folders[`${host}-cuda`] = platformPackage(`${host}-cuda`, built.cuda)
  return Object.fromEntries(Object.entries(folders).map(([name, folder]) => {
    const [{ filename, size, unpackedSize, files: packed }] = JSON.parse(execFileSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', release], { cwd: folder, encoding: 'utf8' }))
    return [name, { folder, tarball: join(release, filename), size, unpackedSize, files: packed }]
  }))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, { tarball, size, unpackedSize }] of Object.entries(pack())) console.log(`${name}: ${tarball}, ${(size / 1e6).toFixed(2)} MB, ${(unpackedSize / 1e6).toFixed(2)} MB unpacked`)
}
