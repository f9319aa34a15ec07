import type { Module } from '../nn/index.ts'
import { bytesOf } from '../tensor/index.ts'
import { headApart } from './quantizedHead.ts'
import { quantizedLayers, savedBytes } from './quantizedLayers.ts'

/** Bytes of the quantised weights below a module, as they are saved. */
export function quantizedBytes(module: Module): number {
  const apart = headApart(module)
  return [...quantizedLayers(module).values()].reduce((sum, layer) => sum + (layer === apart ? layer.weight.bytes : savedBytes(layer)), 0)
}

/** Bytes of the parameters and quantised weights below a module, as they are saved. */
export const weightBytes = (module: Module): number =>
  module.parameters().reduce((sum, { size, dtype }) => sum + size * bytesOf(dtype), quantizedBytes(module))
