/**
 * The largest magnitude of each row of an int8 weight, as LLM.int8() checkpoints hold it (SCB): a row's scale is it over 127. Products read the scales;
 * this is kept beside them, so that what is saved has the bytes of bitsandbytes.
 */
export class RowMaxima {
  readonly absmax: Float32Array

  constructor(absmax: Float32Array) { this.absmax = absmax }

  /** Those of other scales. */
  static of(scales: Float32Array): RowMaxima { return new RowMaxima(scales.map((scale) => scale * 127)) }

  /** The scales, each rounded to float32. */
  values(): Float32Array { return this.absmax.map((absmax) => absmax / 127) }
}
