/**
 * Every error anneal throws on purpose. Each says what is wrong, what was expected and got, and the next step.
 * `code` is stable across releases; `message` is for people.
 */
export class AnnealError extends Error {
  readonly code: string
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.code = code
  }
}

/** A tensor has the wrong shape, dtype or device for an op. */
export class ShapeError extends AnnealError {
  constructor(message: string) { super('ERR_SHAPE', message) }
}

/** A tensor, or a run, was used after it was disposed. */
export class DisposedError extends AnnealError {
  constructor(message: string) { super('ERR_DISPOSED', message) }
}

/** Native memory ran out. */
export class OutOfMemoryError extends AnnealError {
  constructor(message: string) { super('ERR_OUT_OF_MEMORY', message) }
}

/** A device is missing, its driver or library cannot be used, it failed, or tensors of two devices met in one operation. */
export class DeviceError extends AnnealError {
  constructor(message: string) { super('ERR_DEVICE', message) }
}

/** A kernel refused its arguments or met a value it cannot use, such as a token id outside the vocabulary. */
export class KernelError extends AnnealError {
  constructor(message: string) { super('ERR_KERNEL', message) }
}

/** The native addon is missing or cannot be loaded. */
export class AddonError extends AnnealError {
  constructor(message: string, options?: ErrorOptions) { super('ERR_ADDON', message, options) }
}

/** An option, a config file or a model's config.json is wrong. */
export class ConfigError extends AnnealError {
  constructor(message: string, options?: ErrorOptions) { super('ERR_CONFIG', message, options) }
}

/** A file is damaged, truncated or of a kind anneal does not read. */
export class FileFormatError extends AnnealError {
  constructor(message: string, options?: ErrorOptions) { super('ERR_FILE_FORMAT', message, options) }
}

/** Training data is wrong: names file, line and column where they are known. */
export class DataError extends AnnealError {
  constructor(message: string, options?: ErrorOptions) { super('ERR_DATA', message, options) }
}

/** A tokenizer cannot be read, trained or used as asked. */
export class TokenizerError extends AnnealError {
  constructor(message: string, options?: ErrorOptions) { super('ERR_TOKENIZER', message, options) }
}

/** The disk is full; names the path and the bytes needed. What was saved before is intact. */
export class DiskFullError extends AnnealError {
  constructor(message: string, options?: ErrorOptions) { super('ERR_DISK_FULL', message, options) }
}

/** The operating system refused to read or write a file, for a reason other than a full disk. */
export class FileAccessError extends AnnealError {
  constructor(message: string, options?: ErrorOptions) { super('ERR_FILE_ACCESS', message, options) }
}

/** A loss, gradient or weight stopped being finite; names the first such tensor. */
export class NonFiniteError extends AnnealError {
  constructor(message: string) { super('ERR_NON_FINITE', message) }
}

/** Another process is using the same output directory. */
export class LockedError extends AnnealError {
  constructor(message: string) { super('ERR_LOCKED', message) }
}
