import { during } from '../activity.ts'
import type { Trainer } from '../train/trainer.ts'

type Train = Trainer<unknown>['train']

/** A run's train(): trains, and then writes what is to stay, unless the run was stopped. */
export const trainAndSave = (trainer: { readonly train: Train }, save: () => Promise<void>): Train => async (options) => {
  const result = await trainer.train(options)
  const { lastCheckpoint } = result
  const kept = (): string => lastCheckpoint === undefined ? 'the trained model is not saved' : `its weights are in ${lastCheckpoint}`
  if (result.reason !== 'aborted') await during({ what: 'saving the trained model', finish: 'saving the trained model', kept }, save)
  return result
}
