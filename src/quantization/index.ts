export { quantizeFolderSchema, quantizeModelSchema } from './options.ts'
export { quantizeFolder, type QuantizationReport, type QuantizeFolderOptions } from './quantizeFolder.ts'
export { quantizeModel, type QuantizeModelOptions } from './quantizeModel.ts'
