// Writes the model of bench/steps/shapes.ts called "qwen", with random weights, as a GGUF file. Usage: llamaModel.ts TYPE PATH
import { modelMetadata } from '../../src/export/gguf/metadata.ts'
import type { GgufType } from '../../src/export/gguf/tensors.ts'
import { bool, list, text, uint32 } from '../../src/export/gguf/types.ts'
import { weightSources } from '../../src/export/gguf/weights.ts'
import { writeGguf } from '../../src/export/gguf/writer.ts'
import { setDefaultDevice } from '../../src/tensor/index.ts'
import { byteToChar } from '../../src/tokenizers/byteLevel.ts'
import { model } from '../steps/shapes.ts'

const [type, path] = process.argv.slice(2) as [GgufType, string]
setDefaultDevice('cpu')
const source = model('qwen', 'bfloat16')
const { vocabSize } = source.config
// Bytes, then names that no text has.
const tokens = [...byteToChar, ...Array.from({ length: vocabSize - 256 }, (_, i) => `<${i}>`)]
const metadata = new Map([
  ...modelMetadata(source.config, { type, name: 'random' }, []),
  ['tokenizer.ggml.model', text('gpt2')], ['tokenizer.ggml.pre', text('qwen2')], ['tokenizer.ggml.tokens', list('string', tokens)],
  ['tokenizer.ggml.token_type', list('int32', tokens.map(() => 1))], ['tokenizer.ggml.merges', list('string', ['a b'])],
  ['tokenizer.ggml.eos_token_id', uint32(vocabSize - 1)], ['tokenizer.ggml.bos_token_id', uint32(vocabSize - 1)], ['tokenizer.ggml.add_bos_token', bool(false)],
] as const)
await writeGguf(path, metadata, weightSources(source, type))
process.exit(0)
