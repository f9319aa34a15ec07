// The native sources for binding.gyp, by the rule that CMakeLists.txt follows: every file of native/cpu is a kernel source but dispatch.cc and threads.cc.
const { createHash } = require('node:crypto')
const { readdirSync, readFileSync } = require('node:fs')
const { join } = require('node:path')

const root = join(__dirname, '..')
const machine = ['native/cpu/dispatch.cc', 'native/cpu/threads.cc']
const sources = (folder) => readdirSync(join(root, folder)).filter((name) => name.endsWith('.cc')).sort().map((name) => `${folder}/${name}`)

module.exports = {
  addon: [...sources('native/addon'), ...sources('native/checks'), ...machine, 'native/failure.cc'].join(' '),
  kernels: sources('native/cpu').filter((file) => !machine.includes(file)).join(' '),
  // The addon and the device libraries must agree on these files, as in CMakeLists.txt.
  interface: ['kernels.def', 'backend.h', 'tensor.h', 'operations.h'].map((file) => createHash('sha256').update(readFileSync(join(root, 'native', file))).digest('hex').slice(0, 8)).join(''),
  flags: (isa) => require('../native/isas.json')[isa].join(' '),
}
