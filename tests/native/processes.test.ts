// Proves that environments end cleanly at any moment: workers terminated in the middle of a step, process.exit(), errors, several copies of the addon.
import { expect, test } from 'vitest'
import { helpers, run } from './run.ts'

const worker = (body: string): string => JSON.stringify(`
  ${helpers}
  Promise.all([import('node:worker_threads'), import(process.env.ANNEAL_TEST_LIB)]).then(async ([{ parentPort }, { native }]) => { ${body} })
`)

const start = `
  import { Worker } from 'node:worker_threads'
  import { setTimeout as wait } from 'node:timers/promises'
  process.env.ANNEAL_TEST_LIB = libPath
  const message = (w) => new Promise((resolve, reject) => { w.once('message', resolve); w.once('error', reject) })
`

const clean = { status: 0, signal: null, stderr: '' }

test('20 workers one after another, terminated in the middle of a step', () => {
  expect(run(`${start}
    for (let i = 0; i < 20; i++) {
      const w = new Worker(${worker(`await multiply(native); busy(native); const pending = native.fence(0); parentPort.postMessage('busy'); await pending`)}, { eval: true })
      await message(w)
      await wait(i % 4 * 5)
      await w.terminate()
    }
    await multiply(native)
    console.log('fine')
  `)).toMatchObject({ ...clean, stdout: 'fine\n' })
})

test('4 workers at once, terminated in the middle of a step, while the main thread computes', () => {
  expect(run(`${start}
    for (let round = 0; round < 3; round++) {
      const workers = [1, 2, 3, 4].map(() => new Worker(${worker(`await multiply(native); busy(native); parentPort.postMessage('busy'); await native.fence(0)`)}, { eval: true }))
      await Promise.all(workers.map(message))
      const own = Array.from({ length: 20 }, () => multiply(native))
      await Promise.all(workers.map((w) => w.terminate()))
      await Promise.all(own)
    }
    console.log('fine')
  `)).toMatchObject({ ...clean, stdout: 'fine\n' })
})

test('workers that end by themselves have computed on their own', () => {
  expect(run(`${start}
    const results = await Promise.all([1, 2, 3].map((i) => new Promise((resolve, reject) => {
      const w = new Worker(${worker(`native.setThreads(2); for (let i = 0; i < 20; i++) await multiply(native, 65); native.create(0, [1000], 0); parentPort.postMessage(native.memory(0).live)`)}, { eval: true })
      let live
      w.on('message', (x) => { live = x })
      w.on('error', reject)
      w.on('exit', (code) => resolve([code, live]))
    })))
    console.log(JSON.stringify(results), native.memory(0).live)
  `)).toMatchObject({ ...clean, stdout: '[[0,4096],[0,4096],[0,4096]] 0\n' })
})

test('a promise of a terminated worker never calls back', () => {
  expect(run(`${start}
    for (let i = 0; i < 10; i++) {
      const w = new Worker(${worker(`parentPort.postMessage('ready'); for (;;) { const h = native.create(0, [64], 0); native.kernels.fill(h, 1); await native.read(h); native.release(h) }`)}, { eval: true })
      await message(w)
      await wait(i)
      await w.terminate()
    }
    console.log('fine')
  `)).toMatchObject({ ...clean, stdout: 'fine\n' })
})

test('process.exit() in the middle of a step', () => {
  expect(run('await multiply(native); busy(native); native.fence(0); process.exit(7)')).toMatchObject({ status: 7, signal: null, stdout: '', stderr: '' })
  expect(run('busy(native); setTimeout(() => process.exit(3), 20); await native.fence(0)')).toMatchObject({ status: 3, signal: null, stdout: '', stderr: '' })
})

test('the process ends by itself with work enqueued, and waits for what is awaited', () => {
  expect(run('busy(native)')).toMatchObject({ ...clean, stdout: '' })
  expect(run('busy(native, 128); await native.fence(0); console.log("done")')).toMatchObject({ ...clean, stdout: 'done\n' })
})

test('an uncaught error while the stream is busy', () => {
  const outcome = run('busy(native); native.fence(0); throw new Error("mine")')
  expect(outcome).toMatchObject({ status: 1, signal: null })
  expect(outcome.stderr).toContain('Error: mine')
})

test('a rejection that nobody handles names the error', () => {
  const outcome = run('const [a, b] = [native.create(0, [2], 0), native.create(0, [3], 0)]; native.kernels.convert(a, b); native.fence(0); await new Promise((r) => setTimeout(r, 500))')
  expect(outcome).toMatchObject({ status: 1, signal: null })
  expect(outcome.stderr).toContain('convert: ')
})

test('the addon twice in one process, and in another context', () => {
  expect(run(`
    import { createRequire } from 'node:module'
    import vm from 'node:vm'
    const require = createRequire(libPath)
    await multiply(native)
    const [file] = Object.keys(require.cache).filter((name) => name.endsWith('.node'))
    const same = require(file)
    delete require.cache[file]
    const again = require(file)
    await Promise.all([multiply(again), multiply(native), multiply(same)])
    const handle = again.create(0, [3], 0)
    if (native.memory(0).live !== 0 || again.memory(0).live === 0) throw new Error('memory is shared')
    again.release(handle)
    const context = vm.createContext({ native, Float32Array, Error })
    for (let i = 0; i < 3; i++) await vm.runInContext(${JSON.stringify(`${helpers}; multiply(native)`)}, context)
    const message = vm.runInContext('try { native.create(0, [-1], 0) } catch (error) { error.message }', context)
    console.log(same === native, again === native, message)
  `)).toMatchObject({ ...clean, stdout: 'true false axis 0 of a shape must be a whole number of at least 0\n' })
})

test('10,000 tensors made and forgotten, collected between steps', () => {
  expect(run(`
    for (let i = 0; i < 100; i++) {
      const handles = Array.from({ length: 100 }, (_, k) => native.create(k % 7, [k], 0))
      for (const handle of handles) native.kernels.fill(handle, 1)
      const reads = handles.map((handle) => native.read(handle))
      for (const handle of handles) { native.release(handle); native.release(handle) }
      globalThis.gc()
      await Promise.all(reads)
    }
    console.log(native.memory(0).live, native.memory(0).blocks)
  `, { args: ['--expose-gc'] })).toMatchObject({ ...clean, stdout: '0 0\n' })
})

test('threads are changed while work is enqueued', () => {
  expect(run(`
    for (let i = 0; i < 60; i++) {
      native.setThreads(1 + i % 5)
      await Promise.all([multiply(native, 200), multiply(native, 33)])
      native.setThreads(1 + i % 3)
    }
    console.log(native.info().threads)
  `)).toMatchObject({ ...clean, stdout: '3\n' })
})
