// Writes adapters for tests/recorded/adapters/check_saved.py: npx tsx tests/adapters/write-saved.mts FOLDER
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { addAdapter, saveAdapter, type AdapterInput } from '../../src/adapters/index.ts'
import { AutoModelForCausalLM, type CausalLanguageModel } from '../../src/models/index.ts'
import { add } from '../../src/ops/index.ts'
import { scope, Tensor, unscoped } from '../../src/tensor/index.ts'
import { folderOf } from '../models/recorded.ts'

const target = process.argv[2]
if (!target) throw new Error('give the folder to write to')

const adapters: Record<string, AdapterInput> = {
  prefix: { type: 'prefix', numVirtualTokens: 4 },
  projection: { type: 'prefix', numVirtualTokens: 4, prefixProjection: true, encoderHiddenSize: 6 },
  prompt: { type: 'prompt', numVirtualTokens: 4, promptTuningInit: 'SAMPLE_VOCAB' },
  text: { type: 'prompt', numVirtualTokens: 4, promptTuningInit: 'TEXT', promptTuningInitText: 'be kind' },
  ptuning: { type: 'ptuning', numVirtualTokens: 4 },
  lora: { type: 'lora', r: 4 },
  rslora: { type: 'lora', r: 4, targetModules: 'all-linear', useRslora: true, layersToTransform: 1 },
  dora: { type: 'lora', r: 4, useDora: true },
  patterns: { type: 'lora', r: 4, rankPattern: { '1.*': 2 }, alphaPattern: { '0.*': 3 }, bias: 'lora_only' },
  whole: { type: 'lora', r: 4, modulesToSave: ['lm_head'] },
  pissa: { type: 'lora', r: 4, initLoraWeights: 'pissa' },
  ia3: { type: 'ia3' },
  tokens: { type: 'lora', r: 4, trainableTokenIndices: [9, 44, 7] },
  norms: { type: 'lntuning' },
}

/** Gives the adapter values that show, but for PiSSA's, which belong to its base. */
function randomise(model: CausalLanguageModel): void {
  for (const [i, parameter] of model.parameters().filter(({ requiresGrad }) => requiresGrad).entries()) {
    parameter.replace(unscoped(() => scope(() => {
      const noise = Tensor.empty([...parameter.shape], { device: parameter.device })
      noise.device.kernels.random_normal(noise.handle, 0, 0.1, 3, i)
      return add(parameter.tensor, noise).alias()
    })))
  }
}

for (const family of ['llama3', 'gpt2', 'qwen3']) {
  for (const [name, options] of Object.entries(adapters)) {
    const model = await AutoModelForCausalLM.fromPretrained(folderOf(family))
    await addAdapter(model, options, { encode: () => [5, 6, 7], seed: 7 })
    if (options.type === 'ia3' || options.type === 'lntuning' || (options.type === 'lora' && name !== 'pissa')) randomise(model)
    const folder = join(target, `${name}-${family}`)
    await saveAdapter(model, folder, name === 'text' ? {} : { baseModel: family })
    const inputIds = [[5, 9, 30, 40, 50, 60, 11, 12, 13, 14, 15, 16], [7], [33, 22, 44]]
    const logits = await Promise.all(inputIds.map(async (ids) => Array.from(await model.forward({ inputIds: [ids], logitsToKeep: 1 }).logits!.data(), Number)))
    await writeFile(join(folder, 'logits.json'), JSON.stringify({ family, inputIds, logits }))
    model.dispose()
  }
}
