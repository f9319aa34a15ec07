/** Options under their names in Python (TRL, transformers, LLaMA-Factory), and what they are here: the option, and how to write it where that is more than its name. */
const otherNames: Readonly<Record<string, readonly [option: string, hint?: string]>> = {
  trainDataset: ['files', 'files, or rows in a program'], dataset: ['files', 'files, or rows in a program'], datasetName: ['files', 'files, or rows in a program'],
  evalDataset: ['evalFiles', 'evalFiles, or evalRows in a program'], valSize: ['evalSplit'],
  modelNameOrPath: ['model'], processingClass: ['tokenizer'], tokenizerNameOrPath: ['tokenizer'], cutoffLen: ['maxLength'], maxSeqLength: ['maxLength'], maxSeqLen: ['maxLength'],
  packingStrategy: ['packing'], datasetTextField: ['columns', 'columns: { text: … }'], datasetNumProc: ['workers'],
  peftConfig: ['adapter', 'adapter: { type: "lora", … }'], finetuningType: ['adapter'], adapterNameOrPath: ['adapterPath'],
  r: ['adapter', 'adapter: { type: "lora", r: … }'], loraR: ['adapter', 'adapter: { type: "lora", r: … }'], loraRank: ['adapter', 'adapter: { type: "lora", r: … }'],
  loraAlpha: ['adapter', 'adapter: { type: "lora", loraAlpha: … }'], loraDropout: ['adapter', 'adapter: { type: "lora", loraDropout: … }'],
  loraTarget: ['adapter', 'adapter: { type: "lora", targetModules: … }'], targetModules: ['adapter', 'adapter: { type: "lora", targetModules: … }'],
  quantizationConfig: ['quantize'], quantizationBit: ['quantize', 'quantize: "nf4" or "int8"'], loadIn4bit: ['quantize', 'quantize: "nf4"'], loadIn8bit: ['quantize', 'quantize: "int8"'],
  lr: ['learningRate'], epochs: ['numTrainEpochs'], numEpochs: ['numTrainEpochs'], batchSize: ['perDeviceTrainBatchSize'], gradientAccumulation: ['gradientAccumulationSteps'],
  torchDtype: ['dtype'], modelInitKwargs: ['dtype', 'dtype, device or quantize'], callbacks: ['outputDir', 'run.trainer.on(listener)'],
  rewardFuncs: ['reward', 'reward by name, or rewards in a program'], rewardModelPath: ['rewardModel'], teacherModelNameOrPath: ['teacher'],
  useVllm: ['rolloutServer'], vllmServerBaseUrl: ['rolloutServer'], tools: ['maxTurns', 'environment: toolEnvironment({ tools })'], logCompletions: ['numCompletionsToLog'],
  prefixAllowedTokensFn: ['logitsProcessor', 'logitsProcessor: allowedTokens(…)'], stoppingCriteria: ['stopStrings', 'stopStrings, eosTokenId or an AbortSignal'], streamer: ['signal', 'stream()'],
}

const camel = (name: string): string => name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())

/** `; here it is …` for an option under another library's name, or an empty string where the name is not known or there is no such option. */
export function otherName(name: string, known: readonly string[]): string {
  const key = camel(name)
  const [option, hint = option] = Object.hasOwn(otherNames, key) ? otherNames[key]! : []
  return option !== undefined && known.includes(option) ? `; here it is ${hint}` : ''
}
