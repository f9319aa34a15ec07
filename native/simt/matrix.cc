// ldmatrix and mma.sync: a warp's registers are gathered into matrices, computed with and scattered. Which lane holds which element was compared once
// with CUTLASS's own layouts and is the PTX manual's.
#include <cmath>

#include "block.h"
#include "wrappers.h"

namespace anneal::simt {
namespace {

template <int matrices, bool transpose> void load_matrices(void** operands) {
  Fiber& fiber = *current_fiber();
  Block& block = *fiber.block;
  for (int lane = 0; lane < matrices * 8; ++lane) {
    const void* row = static_cast<LoadMatrix*>(operands[lane])->row;
    if (reinterpret_cast<uintptr_t>(row) & 15) fail("misaligned", "ldmatrix: the row that lane %d gives is not aligned to 16 bytes", lane);
    if (!find_shared(block, row, 16)) fail("out-of-bounds", "ldmatrix: the row that lane %d of warp %d gives is outside shared memory", lane, fiber.warp->index);
#if defined(ANNEAL_SIMT_HOOKS)
    touch(block.fibers[fiber.warp->index * 32 + lane], row, 16, Access::read, fiber.warp->pc);
#endif
  }
  for (int m = 0; m < matrices; ++m) {
    const uint16_t* rows[8];
    for (int r = 0; r < 8; ++r) rows[r] = static_cast<const uint16_t*>(static_cast<LoadMatrix*>(operands[m * 8 + r])->row);
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane >> 2, pair = 2 * (lane & 3);
      const uint32_t low = transpose ? rows[pair][group] : rows[group][pair];
      const uint32_t high = transpose ? rows[pair + 1][group] : rows[group][pair + 1];
      static_cast<LoadMatrix*>(operands[lane])->result[m] = low | high << 16;
    }
  }
}

float bf16_to_float(uint32_t bits) { return __uint_as_float(bits << 16); }

// The nearest float that is not larger in magnitude.
float truncate(double x) {
  const float nearest = static_cast<float>(x);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

}  // namespace

void apply_ldmatrix_x4(void** operands, uint32_t) { load_matrices<4, false>(operands); }
void apply_ldmatrix_x4_trans(void** operands, uint32_t) { load_matrices<4, true>(operands); }
void apply_ldmatrix_x2(void** operands, uint32_t) { load_matrices<2, false>(operands); }
void apply_ldmatrix_x2_trans(void** operands, uint32_t) { load_matrices<2, true>(operands); }

void apply_mma_bf16(void** operands, uint32_t) {
  typedef float Row __attribute__((vector_size(32)));
  alignas(64) float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& own = *static_cast<MultiplyMatrices*>(operands[lane]);
    const int group = lane >> 2, pair = 2 * (lane & 3);
    auto put = [&](uint32_t bits, int row, int column) {
      a[row][column] = bf16_to_float(bits & 0xffff);
      a[row][column + 1] = bf16_to_float(bits >> 16);
    };
    put(own.a[0], group, pair);
    put(own.a[1], group + 8, pair);
    put(own.a[2], group, pair + 8);
    put(own.a[3], group + 8, pair + 8);
    b[pair][group] = bf16_to_float(own.b0 & 0xffff);
    b[pair + 1][group] = bf16_to_float(own.b0 >> 16);
    b[pair + 8][group] = bf16_to_float(own.b1 & 0xffff);
    b[pair + 9][group] = bf16_to_float(own.b1 >> 16);
    d[group][pair] = own.d[0];
    d[group][pair + 1] = own.d[1];
    d[group + 8][pair] = own.d[2];
    d[group + 8][pair + 1] = own.d[3];
  }
  if (!current_fiber()->block->launch->settings.truncate) {
    for (int i = 0; i < 16; ++i) {
      Row sum;
      std::memcpy(&sum, d[i], sizeof sum);
      for (int k = 0; k < 16; ++k) {
        Row row;
        std::memcpy(&row, b[k], sizeof row);
        sum += a[i][k] * row;
      }
      std::memcpy(d[i], &sum, sizeof sum);
    }
  } else {
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j) {
        double sum = d[i][j];
        for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[i][k]) * b[k][j];
        d[i][j] = truncate(sum);
      }
  }
  for (int lane = 0; lane < 32; ++lane) {
    auto& own = *static_cast<MultiplyMatrices*>(operands[lane]);
    const int group = lane >> 2, pair = 2 * (lane & 3);
    own.d[0] = d[group][pair];
    own.d[1] = d[group][pair + 1];
    own.d[2] = d[group + 8][pair];
    own.d[3] = d[group + 8][pair + 1];
  }
}

}  // namespace anneal::simt
