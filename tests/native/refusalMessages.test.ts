// Proves that a kernel called with arguments that do not fit throws at the call, before anything is enqueued, whatever the device.
import { afterAll, expect, test } from 'vitest'
import { cpu, Tensor } from '../../src/tensor/index.ts'
import type { DType } from '../../src/tensor/index.ts'

const { kernels } = cpu
const made: Tensor[] = []
afterAll(() => { for (const tensor of made) tensor.dispose() })

const of = (dtype: DType) => (...shape: number[]): number => {
  const tensor = Tensor.zeros(shape, { dtype })
  made.push(tensor)
  return tensor.handle
}
const [f, half, double, ints, bytes] = [of('float32'), of('bfloat16'), of('float64'), of('int32'), of('uint8')]

test.each<[string, () => void]>([
  ['attention: heads must be a multiple of kv_heads, but are 3 and 2', () => { kernels.attention(f(4, 3, 8), f(4, 3), f(4, 3, 8), f(4, 2, 8), f(4, 2, 8), ints(1, 4), 0, 1, true, 0, 0, false) }],
  ['attention: v must have the shape and dtype of k', () => { kernels.attention(f(4, 2, 8), f(4, 2), f(4, 2, 8), f(4, 2, 8), half(4, 2, 8), ints(1, 4), 0, 1, true, 0, 0, false) }],
  ['attention: plan must be i32, but is f32', () => { kernels.attention(f(4, 2, 8), f(4, 2), f(4, 2, 8), f(4, 2, 8), f(4, 2, 8), ints(1, 4), f(9), 1, true, 0, 0, false) }],
  ['attention: scale must be positive, but is 0', () => { kernels.attention(f(4, 2, 8), f(4, 2), f(4, 2, 8), f(4, 2, 8), f(4, 2, 8), ints(1, 4), 0, 0, true, 0, 0, false) }],
  ['attention: soft_cap must not be negative, but is -2', () => { kernels.attention(f(4, 2, 8), f(4, 2), f(4, 2, 8), f(4, 2, 8), f(4, 2, 8), ints(1, 4), 0, 1, true, 0, -2, false) }],
  ['attention_backward: dk must have the shape and dtype of k', () => { kernels.attention_backward(f(4, 2, 8), f(4, 1, 8), f(4, 2, 8), f(4, 2, 8), f(4, 2, 8), f(4, 2, 8), f(4, 2, 8), f(4, 2, 8), f(4, 2), ints(1, 4), 0, 1, true, 0, 0, false) }],
  ['attention_plan: spans must be i32 [sequences, 4]', () => { kernels.attention_plan(ints(99), f(4, 2, 8), f(4, 2, 8), ints(1, 3), true, 0, false, false) }],
  ['attention_plan: window must not be negative, but is -1', () => { kernels.attention_plan(ints(99), f(4, 2, 8), f(4, 2, 8), ints(1, 4), true, -1, false, false) }],
  ['scatter_rows: axis 1 of x must have length 3 like y, but has 4', () => { kernels.scatter_rows(f(7, 3), f(2, 4), ints(2)) }],
  ['gather_rows: row must be i32 [2], one per row of y', () => { kernels.gather_rows(f(2, 3), f(7, 3), ints(3)) }],
  ['rms_norm: sum is required where residual is given', () => { kernels.rms_norm(f(2, 8), f(2), 0, f(2, 8), f(2, 8), f(8), 1e-6, 0) }],
  ['rms_norm_backward: dweight must be f32, but is bf16', () => { kernels.rms_norm_backward(f(2, 8), half(8), f(2, 8), 0, f(2, 8), f(8), f(2), 0, false) }],
  ['layer_norm: mean must have 2 elements, one per row of x, but has [3]', () => { kernels.layer_norm(f(2, 8), f(3), f(2), 0, f(2, 8), 0, f(8), 0, 1e-5) }],
  ['layer_norm_backward: dbias must have shape [8], the last axis of x, but has [7]', () => { kernels.layer_norm_backward(f(2, 8), f(8), f(7), f(2, 8), 0, f(2, 8), f(8), f(2), f(2), false) }],
  ['rope: cos must have shape [positions, rotated / 2] with at most 4 columns, but has [9, 5]', () => { kernels.rope(f(2, 1, 8), f(2, 1, 8), f(9, 5), f(9, 5), ints(2), false, false) }],
  ['rope_pair: other_x must have the tokens of x, 2, but has 3', () => { kernels.rope_pair(f(2, 1, 8), f(3, 1, 8), f(2, 1, 8), f(3, 1, 8), f(9, 4), f(9, 4), ints(2), false, false) }],
  ['rope_pair: other_y must be f32, but is bf16', () => { kernels.rope_pair(f(2, 1, 8), half(2, 1, 8), f(2, 1, 8), f(2, 1, 8), f(9, 4), f(9, 4), ints(2), false, false) }],
  ['embedding: id must be i32, but is f32', () => { kernels.embedding(f(2, 8), f(5, 8), f(2)) }],
  ['embedding_backward: dy must have 2 rows of 8, but has [3, 8]', () => { kernels.embedding_backward(f(5, 8), f(3, 8), ints(2), false) }],
  ['embedding_backward: dweight has no rows, but there are 2 ids', () => { kernels.embedding_backward(f(0, 8), f(2, 8), ints(2), false) }],
  ['lora_merge: a must have shape [2, 8], but has [3, 8]', () => { kernels.lora_merge(f(4, 8), f(4, 2), f(3, 8), 1, false) }],
  ['lora_merge_quantized: error must be f64, but is f32', () => { kernels.lora_merge_quantized(bytes(4, 32), f(4, 1), 0, f(2), f(4, 2), f(2, 64), 1, 0) }],
  ['lora_merge_quantized: format must be nf4, fp4, int8 or int4, a weight\'s, but is 4', () => { kernels.lora_merge_quantized(bytes(4, 64), f(4, 1), 0, double(2), f(4, 2), f(2, 64), 1, 4) }],
  ['quantize: block must be positive and even for codes of four bits, but is 3', () => { kernels.quantize(bytes(4), f(3), 0, f(8), 0, 3) }],
  ['quantize: x must be f32, bf16 or f16, but is f64', () => { kernels.quantize(bytes(4), f(1), 0, double(8), 0, 8) }],
  ['dequantize: unknown format 6', () => { kernels.dequantize(f(8), bytes(4), f(1), 0, 6, 8) }],
  ['quantized_matmul: bias must have shape [3], but has [4]', () => { kernels.quantized_matmul(f(2, 3), f(2, 64), bytes(3, 32), f(3, 1), 0, f(4), 0, false) }],
  ['decode_quantized_matmul: y must have the rows of x, 2, but has 1', () => { kernels.decode_quantized_matmul(f(1, 3), f(2, 64), bytes(3, 32), f(3, 1), 0, 0, 0) }],
  ['quantized_matmul_backward: codes must have shape [3, 32], but has [3, 64]', () => { kernels.quantized_matmul_backward(f(2, 64), f(2, 3), bytes(3, 64), f(3, 1), 0, 0, false) }],
  ['decode_matmul: weight must be bf16, but is f32', () => { kernels.decode_matmul(f(2, 3), f(2, 64), f(3, 64), 0, 0) }],
])('%s', async (message, call) => {
  expect(call).toThrow(expect.objectContaining({ code: 'ERR_KERNEL', message: expect.stringContaining(message) as string }) as Error)
  await cpu.fence()
})
