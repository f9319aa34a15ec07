// The faults that seed-faults.js injects: a search text that must occur exactly once in a file of native/cuda, and what replaces it.

/**
 * compile: the kernel files that take part, the header's users where the file is a header. test: which cases of which test file prove them.
 * slow: results stay right, so only the profile can see it. quick: part of `--quick`, which runs only the check named.
 */
const attention = { compile: ['attention.cu'], file: 'attention.cu', test: ['tests/cuda/fused.test.ts', "^'?attention"] }
const attentionTile = { ...attention, file: 'attention_tile.h' }
const gemm = { compile: ['gemm_half.cu'], file: 'gemm_half.cu', test: ['tests/cuda/fused.test.ts', "^'?linear "] }
const norm = { compile: ['norm.cu'], file: 'norm.h', test: ['tests/cuda/fused.test.ts', "^'?(rmsNorm|layerNorm)"] }
const lastBlock = { compile: ['norm_backward.cu'], file: 'last_block.h', test: ['tests/cuda/fused.test.ts', "^'?(addRmsNorm|addLayerNorm|rmsNorm|layerNorm)"] }
const lists = { compile: ['optimizer.cu'], file: 'tensor_table.h', test: ['tests/cuda/optimizer.test.ts', 'adamw changes'] }
const lists8 = { compile: ['adamw_8bit.cu'], file: 'adamw_8bit.cu', test: ['tests/cuda/optimizer.test.ts', 'adamw_8bit changes'] }
const sums = { compile: ['optimizer.cu'], file: 'optimizer.cu', test: ['tests/cuda/optimizer.test.ts', 'the sum of squares'] }
const rope = { compile: ['rope.cu'], file: 'rope.cu', test: ['tests/cuda/fused.test.ts', "^'?ropePair"] }
const softmax = { compile: ['softmax.cu'], file: 'softmax.cu', test: ['tests/cuda/fused.test.ts', "^'?softmax"] }
const topK = { compile: ['top_k.cu'], file: 'top_k.cu', test: ['tests/cuda/fused.test.ts', "^'?topK"] }
const divergence = { compile: ['divergence.cu'], file: 'divergence.cu', test: ['tests/cuda/fused.test.ts', "^'?linearDivergence"] }
const recorded = { ...divergence, test: ['tests/cuda/fused.test.ts', "^'?linearTopDivergence"] }
const policy = { compile: ['policy_loss.cu'], file: 'policy_loss.cu', test: ['tests/cuda/fused.test.ts', "^'?policyLoss"] }
const few = { compile: ['quantized_few.cu'], file: 'quantized_few.cu', test: ['tests/cuda/fused.test.ts', "^'?quantizedMatmul"] }
const many = { ...few, compile: ['quantized_many.cu'], file: 'quantized_many.cu' }
const embedding = { compile: ['embedding.cu'], file: 'embedding.cu', test: ['tests/cuda/fused.test.ts', "^'?embedding"] }
const movement = { compile: ['movement.cu'], file: 'movement.cu', test: ['tests/cuda/primitives.test.ts', 'permute'] }

export const faults = [
  { ...attention, name: 'attention: no barrier before the keys are read', search: '__syncthreads();  // the keys (and queries)', replace: '// the keys (and queries)' },
  { ...attention, name: 'attention: no barrier before the values are read', search: '__syncthreads();  // the values are there', replace: '// the values are there' },
  { ...attention, name: 'attention: the wait for keys leaves one group under way', search: 'cp_async_wait<0>();\n    __syncthreads();  // the keys', replace: 'cp_async_wait<1>();\n    __syncthreads();  // the keys' },
  { ...attention, name: 'attention: values are fetched before the barrier', search: '    __syncthreads();  // the keys (and queries) are there, and nobody reads the values of the tile before\n    load(values, p.v, tile);', replace: '    load(values, p.v, tile);\n    __syncthreads();' },
  { ...attention, name: 'attention: the correction reaches every other column', search: 'acc[i][j][2 * half + 1] *= correction[i][half];', replace: '' },
  { ...attention, name: 'attention: values are read without .trans', search: 'ldmatrix_x4_trans(right, values', replace: 'ldmatrix_x4(right, values' },
  { ...attention, name: 'attention: no bound on the stored lse', search: 'if ((lane & 3) == 0 && row < valid)', replace: 'if ((lane & 3) == 0)' },
  { ...attentionTile, name: 'attention: rows beyond the tail are copied', search: 'source + r * stride, inside && r + row < valid)', replace: 'source + r * stride, inside)' },
  { ...attentionTile, name: 'attention: one row too many is copied', search: 'source + r * stride, inside && r + row < valid)', replace: 'source + r * stride, inside && r + row <= valid)' },
  { ...attentionTile, name: 'attention: tiles are written without the swizzle', search: '((chunk ^ twist<D>(row)) << 4)', replace: '(chunk << 4)' },
  { ...attentionTile, name: 'attention: lanes of the key fragments exchanged', search: 'first_row + (lane & 7) + (lane >> 4 << 3), lane >> 3 & 1', replace: 'first_row + (lane & 15), lane >> 4' },
  { ...attentionTile, name: 'attention: no __syncwarp between writing and reading the output tile', search: '    __syncwarp();\n', replace: '' },
  { ...attentionTile, name: 'attention: no swizzle at all', slow: true, search: 'if constexpr (chunks<D> % 8 == 0) return row & 7;', replace: 'if constexpr (chunks<D> % 8 == 0) return 0;' },

  { ...gemm, name: 'gemm: the wait leaves one stage too many under way', search: 'cp_async_wait<stages - 2>();', replace: 'cp_async_wait<stages - 1>();' },
  { ...gemm, name: 'gemm: no barrier in the loop', search: 'cp_async_wait<stages - 2>();\n    __syncthreads();', replace: 'cp_async_wait<stages - 2>();' },
  { ...gemm, name: 'gemm: the next stage is fetched before the barrier', search: '    __syncthreads();\n    copy(step + stages - 1, free_stage);', replace: '    copy(step + stages - 1, free_stage);\n    __syncthreads();' },
  { ...gemm, name: 'gemm: no barrier before the tile is reused for results', search: 'cp_async_wait<0>();\n  __syncthreads();', replace: 'cp_async_wait<0>();' },
  { ...gemm, name: 'gemm: lanes of the left fragments exchanged', search: 'k / 8 + (lane >> 4))) * 16);', replace: 'k / 8 + (lane >> 3 & 1))) * 16);' },
  { ...gemm, file: 'gemm_reader.h', name: 'gemm: no bound on k', search: 'i < left && k0 + piece * 8 < k', replace: 'i < left' },
  { ...gemm, file: 'gemm_reader.h', name: 'gemm: no bound on rows', search: 'i < left && k0 + piece * 8 < k', replace: 'k0 + piece * 8 < k' },
  { ...gemm, file: 'gemm_reader.h', name: 'gemm: no swizzle at all', slow: true, search: 'return piece ^ (row & 7);', replace: 'return piece + 0 * row;' },

  { ...norm, quick: 'race', name: 'norm: one number too many is stored', search: 'if (at + i < n) row[at + i] = from_float<T>(v[i]);', replace: 'if (at + i <= n) row[at + i] = from_float<T>(v[i]);' },
  { ...norm, file: 'numeric.h', name: 'block_reduce: no barrier before its room is written', search: '  __syncthreads();\n  if (lane == 0) room', replace: '  if (lane == 0) room', compile: ['policy_loss.cu'], test: ['tests/cuda/fused.test.ts', "^'?policyLoss"] },
  { ...norm, name: 'norm: no barrier before the warps’ sums are read', search: '  __syncthreads();\n#pragma unroll\n  for (int i = 0; i < count; ++i) x[i] = warp_reduce', replace: '#pragma unroll\n  for (int i = 0; i < count; ++i) x[i] = warp_reduce' },
  { ...norm, file: 'column_sums.h', compile: ['loss_linear.cu'], test: ['tests/cuda/fused.test.ts', "^'?linearCrossEntropy"], name: 'column sums: no barrier before the rows’ sums are added', search: 'room[threadIdx.x] = total;\n  __syncthreads();', replace: 'room[threadIdx.x] = total;' },
  { ...lastBlock, name: 'norm: blocks arrive before all of their threads have written', search: '  __threadfence();\n  __syncthreads();\n  if (threadIdx.x == 0 &&', replace: '  __threadfence();\n  if (threadIdx.x == 0 &&' },
  { ...lastBlock, name: 'norm: the last block but one adds the parts', search: 'const bool last = *room == count - 1;', replace: 'const bool last = *room + 2 == count;' },
  { ...lastBlock, name: 'norm: a block alone reads what its other threads have not written yet', search: 'if (gridDim.x == 1) __syncthreads();', replace: '' },
  { ...norm, file: 'norm.cu', name: 'norm: weights are read before the threads of other rows have brought them', search: "  if (blockDim.y > 1) __syncthreads();\n", replace: '' },
  { ...norm, file: 'norm.cu', name: 'norm: what is on its way is the row before', search: 'if (base + stride < a.rows) fetch(base + stride);', replace: 'if (base + stride < a.rows) fetch(base);' },
  { ...lastBlock, file: 'norm_backward.cu', name: 'norm: a block’s sums are added before all of its rows have theirs', search: 'x[four * 4 / length] + four * 4 % length);\n  __syncthreads();', replace: 'x[four * 4 / length] + four * 4 % length);' },
  { ...lastBlock, file: 'norm_backward.cu', name: 'norm: a block’s sums overwrite weights that others still read', search: '  __syncthreads();  // nobody reads any more what is there\n', replace: '' },
  { ...lists, name: 'adamw: the first block of a parameter takes the one before', search: 'first[found + step] <= block)', replace: 'first[found + step] < block)' },
  { ...lists, name: 'adamw: a table takes one tensor more than it holds', search: 'if (table.count == Table::most ||', replace: 'if (table.count == Table::most + 1 ||' },
  { ...lists8, name: 'adamw_8bit: the code books are read before they are there', search: 'fill_bounds(second_book);\n  __syncthreads();', replace: 'fill_bounds(second_book);' },
  { ...lists8, name: 'adamw_8bit: new scales are written before all lanes have read the old ones', search: '    __syncwarp();  // all lanes have read the old scales\n', replace: '' },
  { ...lists8, name: 'adamw_8bit: a block counts from the launch’s first, not its parameter’s', search: 'const int64_t b = number - table.first[entry];', replace: 'const int64_t b = number;' },
  { ...sums, name: 'sum_squares: a block counts from the launch’s first, not its tensor’s', search: '(blockIdx.x - table.first[entry]) * sum_block', replace: 'blockIdx.x * sum_block' },
  { ...sums, name: 'sum_squares: a second table’s sums overwrite the first’s', search: '          done += table.blocks;\n', replace: '' },
  { ...rope, name: 'rope_pair: the other heads are written where the first ones’ rows would be', search: 't.other_y + (token * a.other_heads + head - a.heads)', replace: 't.other_y + (token * a.heads + head - a.heads)' },
  { ...rope, name: 'rope_pair: the last head of the other tensor is left out', search: 'const int64_t heads = a.heads + a.other_heads;', replace: 'const int64_t heads = a.heads + a.other_heads - (a.other_heads > 0);' },
  { ...rope, name: 'rope: angles are read before they are there', search: '    __syncthreads();\n    if (is_turning) {', replace: '    if (is_turning) {' },
  { ...rope, test: ['tests/cuda/fused.test.ts', "^'?rope "], name: 'rope: angles are overwritten before all have read them', search: '    if (base > 0) __syncthreads();  // the angles of the places before have been read\n', replace: '' },
  { ...softmax, name: 'softmax: a thread’s exponentials keep the thread’s maximum', search: 'exp_above(own.max, all.max) / all.sum;', replace: '1 / all.sum;' },
  { ...topK, name: 'top_k: one equal number too many is kept', search: '(key == least && own_equal < short_by)', replace: '(key == least && own_equal <= short_by)' },
  { ...topK, name: 'top_k: no barrier before the warps’ counts are read', search: '__popc(equal));\n    }\n    __syncthreads();', replace: '__popc(equal));\n    }' },
  { ...topK, name: 'top_k: the digits’ places are read before they are there', search: '      room.next[threadIdx.x] = at;\n    }\n    __syncthreads();', replace: '      room.next[threadIdx.x] = at;\n    }' },
  { ...divergence, name: 'divergence: a gradient overwrites logits that others have not read', search: '    __syncthreads();\n    if (!inside) continue;', replace: '    if (!inside) continue;' },
  { ...divergence, name: 'divergence: the teacher’s temperature is left out', search: 'log_probability(t[k], scale, teacher_lse), a.mix);', replace: 'log_probability(t[k], 1, teacher_lse), a.mix);' },
  { ...recorded, name: 'divergence: recorded logits are taken out before all have been read', search: 'inside ? logits[one] : 0;\n  }\n  __syncthreads();', replace: 'inside ? logits[one] : 0;\n  }' },
  { ...recorded, name: 'divergence: no barrier between the tail’s gradient and that of the recorded tokens', search: 'v[k], at + k);\n    });\n    __syncthreads();', replace: 'v[k], at + k);\n    });' },
  { ...policy, name: 'policy_loss: masked tokens get the sequence’s share', search: 'if (x.weight[t] != 0) x.dlogprob[t] += each;', replace: 'x.dlogprob[t] += each;' },
  { ...policy, name: 'policy_loss: the largest ratio is summed over sequences', search: 'sum = i == 5 ? (part > sum ? part : sum) : sum + part;', replace: 'sum = sum + part;' },
  { ...few, name: 'quantized_matmul: no barrier between the slices’ sums and their sum', search: '= sums[i].of[j][e];\n  __syncthreads();', replace: '= sums[i].of[j][e];' },
  { ...few, name: 'quantized_matmul: no bound on the tokens', search: 'if (step < end && j * 8 + g < m) raw', replace: 'if (step < end) raw' },
  { ...many, name: 'quantized_matmul: the wait leaves one stage too many under way', search: 'cp_async_wait<many_stages - 2>();', replace: 'cp_async_wait<many_stages - 1>();' },
  { ...embedding, name: 'embedding: places are taken before all lanes have read theirs', search: '    __syncwarp();\n    if (lane == __ffs', replace: '    if (lane == __ffs' },
  { ...embedding, name: 'embedding: digits are counted before the counts are zero', search: 'count[threadIdx.x] = 0;\n  __syncthreads();', replace: 'count[threadIdx.x] = 0;' },
  { ...embedding, name: 'embedding: a warp goes on one place too far', search: 'first += 31) {', replace: 'first += 32) {' },
  { ...embedding, name: 'embedding: the last row of a run is the first token’s', search: 'lane > 0 && lane <= run ?', replace: 'lane > 0 && lane < run ?' },
  { ...embedding, file: 'gather.h', name: 'embedding: no bound on the last elements of a row', search: 'if (first + k * blockDim.x < width) store_elements', replace: 'store_elements' },
  { ...movement, quick: 'race', name: 'transpose: no barrier between writing and reading the tile', search: 'column + lane];\n  __syncthreads();', replace: 'column + lane];' },
  { ...movement, quick: 'ascending', name: 'transpose: the tile is read along its rows', search: 'room[lane * stride + i];', replace: 'room[i * stride + lane];' },
  { ...movement, quick: 'profile', slow: true, name: 'transpose: rows of the tile without padding', search: 'stride = tile + (sizeof(U) < 4 ? 4 / sizeof(U) : 1);', replace: 'stride = tile;' },
]
