// The native sources for binding.gyp, by the rule that CMakeLists.txt follows: every file of native/cpu is a kernel source but dispatch.cc and threads.cc.
const { readdirSync } = require('node:fs')
const { join } = require('node:path')

const root = join(__dirname, '..')
const machine = ['native/cpu/dispatch.cc', 'native/cpu/threads.cc']
const sources = (folder) => readdirSync(join(root, folder)).filter((name) => name.endsWith('.cc')).sort().map((name) => `${folder}/${name}`)

module.exports = {
  addon: [...sources('native/addon'), ...machine].join(' '),
  kernels: sources('native/cpu').filter((file) => !machine.includes(file)).join(' '),
  flags: (isa) => require('../native/isas.json')[isa].join(' '),
}
