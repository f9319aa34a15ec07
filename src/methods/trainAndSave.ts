import type { Trainer } from '../train/trainer.ts'

type Train = Trainer<unknown>['train']

/** A run's train(): trains, and then writes what is to stay, unless the run was stopped. */
export const trainAndSave = (trainer: { readonly train: Train }, save: () => Promise<void>): Train => async (options) => {
  const result = await trainer.train(options)
  if (result.reason !== 'aborted') await save()
  return result
}
