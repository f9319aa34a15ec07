import { Tensor, unscoped, type Device } from '../tensor/index.ts'
import type { FlatBatch } from './batch.ts'
import type { RopeConfig } from './configs/rope.ts'
import { ropeFrequencies, ropeLengthKey, ropeRows } from './rope.ts'

/** What the rope operation needs for one batch: tables, and the row of each token. */
export interface RopeRows {
  readonly cos: Tensor
  readonly sin: Tensor
  /** int32 [tokens]. */
  readonly row: Tensor
}

/** Beyond this and beyond max_position_embeddings no table is kept: one odd position must not cost a gigabyte. */
const largestTable = 8192

/** @internal Positions up to which one table serves every length. */
export const tableLength = (config: RopeConfig): number => Math.max(largestTable, config.maxPositionEmbeddings)

/** cos and sin on the device. One table serves every length where frequencies do not depend on it; it doubles as positions grow. */
export class RopeTables {
  readonly config: RopeConfig
  readonly device: Device
  /** All tables made so far, the largest last: a recomputed layer may still use an earlier one. */
  readonly #tables: { cos: Tensor, sin: Tensor }[] = []

  constructor(config: RopeConfig, device: Device) {
    this.config = config
    this.device = device
  }

  lookup({ positions, positionIds, length }: FlatBatch): RopeRows {
    // Frequencies of this length alone, or positions far out: only the rows in use are made.
    if (ropeLengthKey(this.config, length) !== 0 || length > tableLength(this.config)) {
      return { ...this.#make(positions, length), row: Tensor.arange(positions.length, { dtype: 'int32', device: this.device }) }
    }
    let table = this.#tables.at(-1)
    if (!table || table.cos.dim(0) < length) {
      const rows = Math.max(256, 2 ** Math.ceil(Math.log2(length)))
      table = unscoped(() => this.#make(Int32Array.from({ length: rows }, (_, i) => i), 0))
      this.#tables.push(table)
    }
    return { ...table, row: positionIds }
  }

  dispose(): void {
    for (const { cos, sin } of this.#tables.splice(0)) {
      cos.dispose()
      sin.dispose()
    }
  }

  #make(positions: Int32Array, length: number): { cos: Tensor, sin: Tensor } {
    const { cos, sin } = ropeRows(ropeFrequencies(this.config, length), positions)
    const shape = [positions.length, this.config.rotaryDim / 2]
    return { cos: Tensor.from(cos, shape, { device: this.device }), sin: Tensor.from(sin, shape, { device: this.device }) }
  }
}
