// A package registry of this machine: what node_modules holds and a few packages more, so that an installation can be tried without network.
import { spawn } from 'node:child_process'
import { createReadStream, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'

/** Serves `packages` (name → { folder, tarball }), `manifests` without a tarball (name → package.json), and every package of node_modules. */
export async function startRegistry(root, packages, manifests) {
  const lock = JSON.parse(readFileSync(join(root, 'node_modules/.package-lock.json'), 'utf8'))
  const installed = new Map()
  for (const [path, { version, link }] of Object.entries(lock.packages)) {
    if (path === '' || link) continue
    const name = path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)
    installed.set(name, [...installed.get(name) ?? [], { version, path }])
  }
  const requested = []
  const server = createServer((request, response) => {
    const { port } = server.address()
    const url = decodeURIComponent(request.url)
    const tarball = /^\/-\/(.+)\/([^/]+)\.tgz$/.exec(url)
    if (tarball) {
      const [, name, version] = tarball
      requested.push(name)
      if (packages[name]) { createReadStream(packages[name].tarball).pipe(response); return }
      const found = installed.get(name)?.find((one) => one.version === version)
      if (!found) { response.writeHead(404).end(); return }
      spawn('tar', ['-czf', '-', '--transform', 's,^\\.,package,', '--exclude', './node_modules', '-C', join(root, found.path), '.'], { stdio: ['ignore', 'pipe', 'inherit'] }).stdout.pipe(response)
      return
    }
    const name = url.slice(1)
    const own = packages[name] ? [JSON.parse(readFileSync(join(packages[name].folder, 'package.json'), 'utf8'))] : manifests[name] ? [manifests[name]] : undefined
    const known = own ?? installed.get(name)?.map(({ path }) => JSON.parse(readFileSync(join(root, path, 'package.json'), 'utf8')))
    if (!known) { response.writeHead(404).end('{}'); return }
    const versions = Object.fromEntries(known.map((manifest) => [manifest.version, { ...manifest, dist: { tarball: `http://127.0.0.1:${port}/-/${name}/${manifest.version}.tgz` } }]))
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ name, 'dist-tags': { latest: known.at(-1).version }, versions }))
  })
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  return { url: `http://127.0.0.1:${server.address().port}/`, requested, close: () => server.close() }
}
