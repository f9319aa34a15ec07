import { open } from 'node:fs/promises'
import { afterAll, beforeAll, vi } from 'vitest'

/**
 * Saves of a test file do not wait until the disk has them, which on a busy machine takes longer than all else. For tests of what is in files;
 * tests/files proves that saves are synced, and in what order.
 */
export function unsynced(): void {
  beforeAll(async () => {
    const file = await open(process.execPath)
    vi.spyOn(Object.getPrototypeOf(file) as typeof file, 'sync').mockResolvedValue(undefined)
    await file.close()
  })
  afterAll(() => { vi.restoreAllMocks() })
}
