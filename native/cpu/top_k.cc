// The k largest of each row, in order: a radix select finds where the k-th stands, as sampling's top-k does, and a stable
// radix sort orders those above it. With k the whole row it sorts alone. A row is one thread's.
#include <math.h>

#include "isa.h"
#include "nucleus.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int scratch_slot = 6;
constexpr int digit_bits = 11, digits = 1 << digit_bits, digit_passes = 3;

// What a row needs beside a TokenRow: numbers to sort, twice, and where each digit goes next.
struct SortRoom {
  uint64_t *from, *to;
  int32_t* next;
};

// Sorts `count` numbers by their upper 32 bits, keeping the order of equal ones; returns where they are then.
uint64_t* sort_by_upper_half(SortRoom room, int64_t count) {
  for (int pass = 0; pass < digit_passes; ++pass) {
    const int shift = 32 + pass * digit_bits;
    auto digit = [&](uint64_t item) { return static_cast<int>(item >> shift & (digits - 1)); };
    memset(room.next, 0, digits * sizeof(int32_t));
    for (int64_t i = 0; i < count; ++i) ++room.next[digit(room.from[i])];
    int32_t before = 0;
    for (int d = 0; d < digits; ++d) {
      const int32_t own = room.next[d];
      room.next[d] = before;
      before += own;
    }
    for (int64_t i = 0; i < count; ++i) room.to[room.next[digit(room.from[i])]++] = room.from[i];
    uint64_t* const other = room.from;
    room.from = room.to;
    room.to = other;
  }
  return room.from;
}

template <class T>
void largest(T* value, int32_t* index, const T* x, int64_t k, const TokenRow& row, const SortRoom& room) {
  // + 0 turns -0 into 0, which the bits would tell apart.
  for (int64_t i = 0; i < row.size; ++i) {
    const float v = to_float(x[i]) + 0.f;
    row.logit[i] = v == v ? v : -INFINITY;
  }
  const Cut cut = k < row.size ? find_cut<TokenMeasure::count>(row, no_cut, static_cast<double>(k)) : no_cut;
  int64_t count = 0;
  for (int64_t i = 0; i < row.size && count < k; ++i)
    if (is_kept(cut, row.logit[i], i))
      room.from[count++] = static_cast<uint64_t>(~ordered_bits(row.logit[i])) << 32 | static_cast<uint32_t>(i);
  const uint64_t* sorted = sort_by_upper_half(room, count);
  for (int64_t i = 0; i < k; ++i) {
    index[i] = static_cast<int32_t>(sorted[i]);
    value[i] = x[index[i]];
  }
}

}  // namespace

void top_k(Out value, Out index, In x) {
  const int64_t rows = x.dim(0), size = x.dim(1), k = value.dim(1);
  if (rows == 0 || k == 0) return;

  // Per thread: logits and members, numbers to sort, bins of which the sort needs half as many bytes.
  const int64_t padded = (size + 63) / 64 * 64, sorted = (k + 63) / 64 * 64;
  const int64_t stride = padded * 8 + sorted * 16 + token_bins * static_cast<int64_t>(sizeof(double));
  const int threads = size * rows < 4096 ? 1 : rows < pool().size() ? static_cast<int>(rows) : pool().size();
  char* memory = static_cast<char*>(pool().scratch(scratch_slot, static_cast<size_t>(stride * threads)));
  parallel(threads, [&](int thread, int) {
    char* own = memory + stride * thread;
    double* bins = reinterpret_cast<double*>(own + padded * 8 + sorted * 16);
    const TokenRow row = {size, reinterpret_cast<float*>(own), nullptr, reinterpret_cast<int32_t*>(own + padded * 4), bins};
    const SortRoom room = {reinterpret_cast<uint64_t*>(own + padded * 8), reinterpret_cast<uint64_t*>(own + padded * 8 + sorted * 8),
                           reinterpret_cast<int32_t*>(bins)};
    take_tickets(rows, [&](int64_t r) {
      auto run = [&]<class T>(T* out) {
        largest(out + r * k, index.as<int32_t>() + r * k, x.as<const T>() + r * size, k, row, room);
      };
      if (x.dtype == DType::f32) run(value.as<float>());
      else run(value.as<bf16>());
    });
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
