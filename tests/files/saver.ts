// Saves checkpoint after checkpoint until it is killed; run by checkpoints.test.ts.
import { join } from 'node:path'
import { latestCheckpoint, saveCheckpoint } from '../../src/files/checkpoints.ts'
import { replaceFile } from '../../src/files/atomic.ts'

const folder = process.argv[2]!
const start = (await latestCheckpoint(folder))?.step ?? 0
process.stdout.write('ready\n')
for (let step = start + 1; ; step++) {
  await saveCheckpoint(folder, step, async (to) => {
    for (const name of ['a.bin', 'b.bin', 'c.bin']) await replaceFile(join(to, name), new Uint8Array(200_000).fill(step))
  }, { saveTotalLimit: 2 })
}
