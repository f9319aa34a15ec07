import type { PretrainedModel } from './pretrainedModel.ts'

/** Sets every dropout of the model to 0, as TRL's disable_dropout_in_model does; config.json is still written with the probabilities it had. */
export function disableDropout(model: PretrainedModel): void {
  // The layers read the object they were made with.
  const layers = model.config
  model.config = { ...layers }
  Object.assign(layers, { attentionDropout: 0 }, layers.kind === 'gpt2' ? { residPdrop: 0, embdPdrop: 0 } : layers.kind === 'encoder' ? { hiddenDropoutProb: 0, classifierDropout: 0 } : {})
}
