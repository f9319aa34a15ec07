import { AdapterLayer, LinearLayer, type AdapterPart, type Module } from '../nn/index.ts'
import { sites } from './targets.ts'

type LayerClass<P extends AdapterPart, L extends AdapterLayer<P>> = new (base: LinearLayer) => L

/** The layer at a path as it stands now, adapters and all. */
function layerAt(model: Module, path: string): LinearLayer {
  for (const [name, module] of sites(model)) if (name === path && module instanceof LinearLayer) return module
  throw new Error(`no linear layer at ${path}`)
}

function setAt(model: Module, path: string, layer: LinearLayer): void {
  const at = path.lastIndexOf('.')
  const parent = at < 0 ? model : [...sites(model)].find(([name]) => name === path.slice(0, at))![1]
  Object.assign(parent, { [path.slice(at + 1)]: layer })
}

/** The layer of that class among those around the layer at a path, outermost first. */
function wrapperAt<P extends AdapterPart, L extends AdapterLayer<P>>(model: Module, path: string, kind: LayerClass<P, L>): L | undefined {
  for (let layer = layerAt(model, path); layer instanceof AdapterLayer; layer = layer.base_layer) if (layer instanceof kind) return layer
  return undefined
}

/** Adds an adapter's part to the layer at a path, putting a layer of that class around it where there is none. */
export function place<P extends AdapterPart, L extends AdapterLayer<P>>(model: Module, path: string, kind: LayerClass<P, L>, name: string, part: P): L {
  let wrapper = wrapperAt(model, path, kind)
  if (!wrapper) {
    wrapper = new kind(layerAt(model, path))
    setAt(model, path, wrapper)
  }
  wrapper.adapters.set(name, part)
  part.training = wrapper.training
  return wrapper
}

/** Takes an adapter's part out, and the layer around it with the last one. */
export function displace<P extends AdapterPart>(model: Module, path: string, wrapper: AdapterLayer<P>, name: string): void {
  wrapper.adapters.get(name)?.dispose()
  wrapper.adapters.delete(name)
  if (wrapper.adapters.size === 0) substitute(model, path, wrapper, wrapper.base_layer)
}

/** Puts a layer in the place of one of those around the layer at a path, or of that itself. */
export function substitute(model: Module, path: string, old: LinearLayer, layer: LinearLayer): void {
  const top = layerAt(model, path)
  if (top === old) {
    setAt(model, path, layer)
    return
  }
  for (let outer = top; outer instanceof AdapterLayer; outer = outer.base_layer) {
    if (outer.base_layer !== old) continue
    outer.base_layer = layer
    return
  }
}
