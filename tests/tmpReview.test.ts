import { expect, test } from 'vitest'
import { classificationLoss } from '../src/models/classificationLoss.ts'
import { backward, Tensor } from '../src/tensor/index.ts'
test('bce at 0', async () => {
  const x = Tensor.from(new Float32Array([0, 0]), [1, 2])
  x.requiresGrad = true
  backward(classificationLoss(x, [[1, 0]], 'multi_label_classification'))
  expect(await x.grad!.toArray()).toEqual([-0.25, 0.25])
})
