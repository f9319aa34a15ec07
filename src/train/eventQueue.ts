import type { TrainerEvent } from './events.ts'

/** Gives every event to listeners at once, and to any number of `for await` readers in order. */
export class EventQueue {
  readonly #listeners = new Set<(event: TrainerEvent) => void>()
  readonly #readers = new Set<{ pending: TrainerEvent[]; wake: (() => void) | null }>()
  #closed = false

  emit(event: TrainerEvent): void {
    for (const listener of this.#listeners) listener(event)
    for (const reader of this.#readers) {
      reader.pending.push(event)
      reader.wake?.()
    }
  }

  /** Begins a run; readers made since the last one ended see it. */
  open(): void { this.#closed = false }

  close(): void {
    this.#closed = true
    for (const reader of this.#readers) reader.wake?.()
  }

  /** Returns a function that removes the listener. */
  on(listener: (event: TrainerEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => { this.#listeners.delete(listener) }
  }

  /** Every event from now on, ending with the run. */
  read(): AsyncGenerator<TrainerEvent, void> {
    const reader: { pending: TrainerEvent[]; wake: (() => void) | null } = { pending: [], wake: null }
    this.#readers.add(reader)
    return this.#drain(reader)
  }

  async *#drain(reader: { pending: TrainerEvent[]; wake: (() => void) | null }): AsyncGenerator<TrainerEvent, void> {
    try {
      for (;;) {
        const event = reader.pending.shift()
        if (event) yield event
        else if (this.#closed) return
        else await new Promise<void>((resolve) => { reader.wake = resolve })
      }
    } finally {
      this.#readers.delete(reader)
    }
  }
}
