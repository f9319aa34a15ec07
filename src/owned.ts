/** What a function acquires, one thing after another, and releases together: the last first. */
export class Owned {
  readonly #all: { dispose(): void }[] = []

  /** Takes `one`, and gives it back. */
  add<T extends { dispose(): void }>(one: T): T {
    this.#all.push(one)
    return one
  }

  dispose(): void { for (const one of this.#all.splice(0).reverse()) one.dispose() }
}
