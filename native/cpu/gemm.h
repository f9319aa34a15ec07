// The matrix product of f32 and bf16 operands, after its arguments are checked. Two schedules compute the same bits.
#pragma once
#include "gemm_epilogue.h"
#include "threads.h"

namespace anneal::cpu {
namespace {

struct PanelSource;

// op(a) seen by its rows, or op(b) by its columns: element (r, k) is data[r * stride + k] where along_k, else data[k *
// stride + r].
struct Operand {
  const void* data;
  DType dtype;
  int64_t stride;
  bool along_k;
  const PanelSource* source = nullptr;  // in place of data: an op(b) that makes its panels itself
};

// An op(b) whose numbers are not stored as such (quantised weights).
struct PanelSource {
  // As pack_panels, for one choice of `pairs`.
  void (*pack)(const PanelSource& source, int64_t r, int64_t length, int64_t k0, int64_t k, uint32_t* panel,
               int64_t panels, int64_t panel_units);
};

struct Product {
  int64_t m, n, k;
  Operand a, b;
  Output out;
};

// The threads that compute one product together: all of the running region, or one thread alone.
struct Team {
  int threads;

  template <class F> void take(int64_t count, F&& f) const {
    if (threads == 1) {
      for (int64_t i = 0; i < count; ++i) f(i);
    } else {
      take_tickets(count, f);
    }
  }
  void barrier() const {
    if (threads > 1) pool().barrier();
  }
};

// Whether each thread packs all of one side for itself, rather than a share of it for all: the other side has rows (columns) enough for each thread. What
// another core has packed has to be waited for, and is dear to read where their caches are far apart: with two threads it is worth it next to never.
ANNEAL_INLINE bool packs_alone(int64_t other_side, int threads) { return threads == 1 || other_side >= 50 * threads; }

// k is summed in blocks of this length, which depends on k alone: the order of an output's sum never depends on m or n.
template <bool pairs> static int64_t k_block(int64_t k) {
#if defined(__AVX512F__)
  constexpr int64_t longest = pairs ? 768 : 512;
#else
  constexpr int64_t longest = 384;
#endif
  const int64_t blocks = ceil_divide(k, longest);
  return blocks <= 1 ? k : ceil_divide(ceil_divide(k, blocks), 64) * 64;
}

template <int width, bool pairs, class T>
static void pack_typed(const Operand& x, int64_t r, int64_t length, int64_t k0, int64_t k, uint32_t* panel,
                       int64_t panels, int64_t panel_units) {
  const T* data = static_cast<const T*>(x.data);
  if (!x.along_k) {
    // Lanes past a panel's width may be the next panel's rows: they are overwritten, or lie in the slack.
    pack_across_k<width, pairs>(data + k0 * x.stride + r, x.stride, k, length - r, panel, panels, panel_units);
    return;
  }
  for (int64_t p = 0; p < panels; ++p, r += width)
    pack_along_k<width, pairs>(data + r * x.stride + k0, x.stride, k, smaller(width, length - r),
                               panel + p * panel_units);
}
// Packs `panels` panels, panel_units apart, from row (column) r and k0 on, of an operand that has `length` rows
// (columns).
template <int width, bool pairs>
static void pack_panels(const Operand& x, int64_t r, int64_t length, int64_t k0, int64_t k, uint32_t* panel,
                        int64_t panels, int64_t panel_units) {
  if (x.source) x.source->pack(*x.source, r, length, k0, k, panel, panels, panel_units);
  else if (x.dtype == DType::f32) pack_typed<width, pairs, float>(x, r, length, k0, k, panel, panels, panel_units);
  else pack_typed<width, pairs, bf16>(x, r, length, k0, k, panel, panels, panel_units);
}

}  // namespace
}  // namespace anneal::cpu
