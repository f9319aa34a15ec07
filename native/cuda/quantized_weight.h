// A quantised weight on the device, and how its codes become bf16 operands of mma.sync.
//
// Codes stay in the row order of the checkpoints. A sum over k does not care which lane multiplies which k, so within each 64 of k lane t of a row (there are
// four) takes numbers 16t … 16t + 15, which lie together in the codes and in x: step s of four multiplies numbers 16t + 4s … 16t + 4s + 3. Weights are the
// mma's first operand (16 rows of W), x is the second (8 tokens), so a lane decodes for two rows of W only and needs only their scales.
#pragma once
#include "gemm.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int quantized_step = 64;    // of k; a block of scales is a multiple of it
constexpr int quantized_slices = 8;   // parts of k, summed each for itself and then in order, whatever the number of tokens
constexpr int table_words = 256 * 32; // of the table that decodes a byte of two codes: a copy for each lane, so that lanes never meet in a bank

// The values of sixteen codes of four bits: exact in bf16, but for NF4, which is rounded. A number is value * scale * factor.
struct CodeBook {
  float value[16];
};
struct QuantizedWeight {
  const uint8_t* codes;
  const float* scales;
  const uint8_t* zeros;  // null, but where the kernel is for a weight with zero points
  int rows, columns;     // W [n, k]; rows * columns < 2^32
  int blocks;            // scales in a row
  uint32_t block_of_step;  // in units of 2^-31
  float factor;
};

// All threads of the block take part; a barrier must follow. book: the sixteen values, in shared memory.
template <int threads> ANNEAL_DEVICE void fill_table(uint32_t* table, const float* book) {
  for (int i = threadIdx.x; i < 256 * 8; i += threads) {
    const uint32_t pair = pack_bf16(book[i >> 7], book[i >> 3 & 15]);
    store_shared_16(to_shared(table + i * 4), make_uint4(pair, pair, pair, pair));
  }
}

// A lane's sixteen codes of a row and step.
template <int bits> struct Codes;
template <> struct Codes<4> {
  uint32_t word[2];
  ANNEAL_DEVICE void load(const uint8_t* from) {
    const uint2 raw = __ldg(reinterpret_cast<const uint2*>(from));
    word[0] = raw.x;
    word[1] = raw.y;
  }
  // Numbers 4s, 4s + 1 and 4s + 2, 4s + 3; `table` points to the lane's copy.
  template <int s> ANNEAL_DEVICE void decode(uint32_t& first, uint32_t& second, Shared table) const {
    first = load_shared_4(table + prmt(word[s / 2], 0, 0x4440 + s % 2 * 2) * 128);
    second = load_shared_4(table + prmt(word[s / 2], 0, 0x4441 + s % 2 * 2) * 128);
  }
};
template <> struct Codes<8> {
  uint32_t word[4];
  ANNEAL_DEVICE void load(const uint8_t* from) {
    const uint4 raw = load_global_once_16(from);
    word[0] = raw.x;
    word[1] = raw.y;
    word[2] = raw.z;
    word[3] = raw.w;
  }
  // A byte becomes the last bits of 2^23 + 128 + its value; the difference is exact, and so are its upper 16 bits.
  template <int s> ANNEAL_DEVICE void decode(uint32_t& first, uint32_t& second, Shared) const {
    const uint32_t raised = word[s] ^ 0x80808080u;
    uint32_t number[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) number[i] = __float_as_uint(__uint_as_float(prmt(raised, 0x4b000000u, 0x7440 + i)) - 8388736.f);
    first = prmt(number[0], number[1], 0x7632);
    second = prmt(number[2], number[3], 0x7632);
  }
};

// The scales (and zero points) of two rows of W for up to four steps at a time: lane t of a row holds those of step t.
template <int bits, bool with_zeros> struct StepScales {
  float scale[2], zero[2];
  // first_block: of each row, in w.scales.
  ANNEAL_DEVICE void load(const QuantizedWeight& w, const int (&first_block)[2], int first_step, int end_step, int t) {
    const int step = min(first_step + t, end_step - 1), block = static_cast<int>(static_cast<uint64_t>(step) * w.block_of_step >> 31);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale[h] = w.scales[first_block[h] + block] * w.factor;
      if constexpr (!with_zeros) zero[h] = 0;
      else if constexpr (bits == 4) zero[h] = static_cast<float>(w.zeros[first_block[h] + block]);
      else zero[h] = static_cast<float>(static_cast<int8_t>(w.zeros[first_block[h] + block]));
    }
  }
};

// Sums of 16 rows of W and 8 * token_tiles tokens, as mma.sync holds them: row lane / 4 (+ 8 for the last two), tokens 2 * (lane % 4) and the next.
template <int token_tiles> struct TokenSums {
  float of[token_tiles][4];
  ANNEAL_DEVICE void clear() {
#pragma unroll
    for (int j = 0; j < token_tiles; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) of[j][e] = 0;
  }
  ANNEAL_DEVICE void add(const TokenSums& other) {
#pragma unroll
    for (int j = 0; j < token_tiles; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) of[j][e] += other.of[j][e];
  }
};

// The mma's first operands for the four parts of a step, from the codes of rows lane / 4 and lane / 4 + 8.
template <int bits> ANNEAL_DEVICE void decode_step(uint32_t (&a)[4][4], const Codes<bits> (&codes)[2], Shared table) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    codes[h].template decode<0>(a[0][h], a[0][h + 2], table);
    codes[h].template decode<1>(a[1][h], a[1][h + 2], table);
    codes[h].template decode<2>(a[2][h], a[2][h + 2], table);
    codes[h].template decode<3>(a[3][h], a[3][h + 2], table);
  }
}

// The scales and zero points of one of the steps that StepScales holds.
template <bool with_zeros> struct RowScales {
  float scale[2], zero[2];
  template <int bits> ANNEAL_DEVICE RowScales(const StepScales<bits, with_zeros>& scales, int step, int lane) {
    const int from = (lane & ~3) | step;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      scale[h] = __shfl_sync(0xffffffffu, scales.scale[h], from);
      zero[h] = with_zeros ? __shfl_sync(0xffffffffu, scales.zero[h], from) : 0.f;
    }
  }
};

// sums += scale * (W x - zero * sum of x) for one step. x: the eight words of the lane's numbers of each token.
template <bool with_zeros, int token_tiles>
ANNEAL_DEVICE void multiply_step(TokenSums<token_tiles>& sums, const uint32_t (&a)[4][4], const uint32_t (&x)[token_tiles][8], const RowScales<with_zeros>& scales) {
  TokenSums<token_tiles> product, total_x;
  product.clear();
  if constexpr (with_zeros) total_x.clear();
#pragma unroll
  for (int s = 0; s < 4; ++s)
#pragma unroll
    for (int j = 0; j < token_tiles; ++j) {
      mma_bf16(product.of[j], a[s], x[j][2 * s], x[j][2 * s + 1]);
      if constexpr (with_zeros) {
        constexpr uint32_t one = 0x3f803f80u;
        const uint32_t ones[4] = {one, one, one, one};
        mma_bf16(total_x.of[j], ones, x[j][2 * s], x[j][2 * s + 1]);
      }
    }
#pragma unroll
  for (int j = 0; j < token_tiles; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float value = product.of[j][e];
      if constexpr (with_zeros) value = fmaf(-scales.zero[e / 2], total_x.of[j][e], value);
      sums.of[j][e] = fmaf(value, scales.scale[e / 2], sums.of[j][e]);
    }
}

// x W^T for up to 16 rows of x, and for more; x bf16, 16-byte aligned, its rows x_stride apart.
void quantized_few(const QuantizedWeight& w, const CodeBook& book, int bits, const bf16* x, int64_t x_stride, int m, const Output& out);
void quantized_many(const QuantizedWeight& w, const CodeBook& book, int bits, const Operand& x, int m, const Output& out);

}  // namespace anneal::cuda
