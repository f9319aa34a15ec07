export { quantizeModelSchema } from './options.ts'
export { dequantizeModel, quantizeModel, type QuantizeModelOptions } from './quantizeModel.ts'
