// Temporary folders of the tests lie in one, which goes with the run: what a test leaves behind, or one that was ended, does not stay on the machine.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export default function setup(): () => void {
  const folder = mkdtempSync(join(tmpdir(), 'anneal-tests-'))
  process.env.TMPDIR = folder
  return () => { rmSync(folder, { recursive: true, force: true }) }
}
