// Finds where top-k and top-p cut a row without sorting it, and the token at which a sum in token order passes a target. One block works on a row.
// Probability mass is counted in whole units of 2^-shift of the largest token's, so sums do not depend on the order in which threads add.
#pragma once
#include "random.h"
#include "rows.h"

namespace anneal::cuda {

constexpr int token_bins = 2048;
constexpr float bins_per_nat = 64;  // of the first level of a search

// Unsigned numbers in the order of the floats.
ANNEAL_DEVICE uint32_t ordered_bits(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}

// The tokens that are left: those whose logit has larger ordered bits, and of those with equal ones the tokens numbered up to `token`.
struct Cut {
  uint32_t key;
  int64_t token;
};
constexpr int64_t all_tokens = INT64_MAX;
constexpr Cut no_cut = {0, all_tokens};
ANNEAL_DEVICE bool is_kept(const Cut& cut, uint32_t key, int64_t token) { return key > cut.key || (key == cut.key && token <= cut.token); }

// One row being sampled. `penalised` has a bit for each token of the history, or is null.
template <class T> struct TokenRow {
  const T* logits;
  const uint32_t* penalised;
  int64_t size;
  bool aligned;
  float penalty, temperature;
  float largest;  // of the scaled logits
  float units;    // 2^shift

  ANNEAL_DEVICE float penalise(float logit, int64_t token) const {
    if (!penalised || !(penalised[token / 32] >> (token % 32) & 1)) return logit;
    return logit < 0 ? logit * penalty : logit / penalty;
  }
  // After penalty and temperature. + 0 turns -0 into 0, which ordered bits would tell apart.
  ANNEAL_DEVICE float scale(float logit, int64_t token) const {
    logit = penalise(logit, token);
    return (temperature == 1 ? logit : logit / temperature) + 0.f;
  }
  ANNEAL_DEVICE float scaled(int64_t token) const { return scale(to_float(logits[token]), token); }
  ANNEAL_DEVICE float weight(float scaled) const { return expf(scaled - largest); }
  ANNEAL_DEVICE uint64_t mass(float scaled) const { return static_cast<uint64_t>(weight(scaled) * units); }

  // f(token, logit) for every token, shared by the block's threads.
  template <class F> ANNEAL_DEVICE void each(F&& f) const {
    constexpr int n = elements_per_thread<T>;
    for (int64_t i = int64_t{threadIdx.x} * n; i < size; i += int64_t{blockDim.x} * n) {
      const int count = size - i < n ? static_cast<int>(size - i) : n;
      float v[n];
      load_group(v, logits + i, count, aligned, 0);
#pragma unroll
      for (int k = 0; k < n; ++k)
        if (k < count) f(i + k, v[k]);
    }
  }
};

// Shared memory of a search.
struct TokenBins {
  uint32_t low[token_bins], high[token_bins];
  uint64_t part[32];  // of a range of tokens
  uint64_t total, above;
  int chosen;
};

ANNEAL_DEVICE uint64_t warp_sum(uint64_t x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

// Sets bins.total, and bins.chosen: the highest bin at which the bins from the top, with `above` before them, reach wanted(total); bins.above: what lies
// above it. For the first warp.
template <class Wanted> ANNEAL_DEVICE void choose_bin(TokenBins& bins, uint64_t above, const Wanted& wanted) {
  constexpr int share = token_bins / 32;
  const int lane = threadIdx.x;
  auto bin = [&](int i) { return static_cast<uint64_t>(bins.high[i]) << 32 | bins.low[i]; };
  // Lane 0 has the highest bins. Each lane starts elsewhere among its own, so that lanes do not meet in a bank.
  const int top = token_bins - 1 - lane * share;
  uint64_t own = 0;
  for (int i = 0; i < share; ++i) own += bin(top - (i + lane) % share);
  uint64_t through = own;
  for (int distance = 1; distance < 32; distance *= 2) {
    const uint64_t other = __shfl_up_sync(0xffffffffu, through, distance);
    if (lane >= distance) through += other;
  }
  const uint64_t total = __shfl_sync(0xffffffffu, through, 31), limit = wanted(total);
  uint64_t before = above + through - own;
  if (before >= limit || before + own < limit) return;
  int chosen = top;
  while (before + bin(chosen) < limit) before += bin(chosen--);
  bins.total = total;
  bins.chosen = chosen;
  bins.above = before;
}

enum class TokenMeasure { count, mass };

// The key at which the tokens kept by `cut`, taken from the largest down, first reach wanted(their total) in count or mass, which is at least 1 and at
// most the total; `short_by` tells what is still wanted when that key is reached. Four passes: bins of equal width in the logit, in which tokens rarely
// meet, then the bits of those in one bin.
template <TokenMeasure measure, class T, class Wanted>
ANNEAL_DEVICE uint32_t find_key(const TokenRow<T>& row, const Cut& cut, TokenBins& bins, const Wanted& wanted_of, uint64_t& short_by) {
  uint64_t above = 0, wanted = 0;
  uint32_t key_prefix = 0;
  int first_bin = 0;
  for (int level = 0; level < 4; ++level) {
    const int shift = level == 1 ? 21 : level == 2 ? 10 : 0, taken = level <= 1 ? 32 : level == 2 ? 21 : 10;
    __syncthreads();
    for (int i = threadIdx.x; i < token_bins; i += blockDim.x) bins.low[i] = bins.high[i] = 0;
    __syncthreads();
    row.each([&](int64_t token, float logit) {
      const float z = row.scale(logit, token);
      const uint32_t key = ordered_bits(z);
      const int bin = token_bins - 1 - static_cast<int>(fminf((row.largest - z) * bins_per_nat, token_bins - 1));
      if (!is_kept(cut, key, token)) return;
      if (level > 0 && bin != first_bin) return;
      if (level > 1 && key >> taken != key_prefix) return;
      const int digit = level == 0 ? bin : static_cast<int>(key >> shift & (level == 3 ? 0x3ff : 0x7ff));
      const uint64_t amount = measure == TokenMeasure::count ? 1 : row.mass(z);
      const uint32_t low = static_cast<uint32_t>(amount);
      uint32_t high = static_cast<uint32_t>(amount >> 32);
      if (measure == TokenMeasure::count) {
        atomicAdd(&bins.low[digit], 1u);
      } else if (amount > 0) {
        high += atomicAdd(&bins.low[digit], low) + low < low;  // the carry
        if (high > 0) atomicAdd(&bins.high[digit], high);
      }
    });
    __syncthreads();
    if (threadIdx.x < 32) choose_bin(bins, above, [&](uint64_t total) { return level == 0 ? wanted_of(total) : wanted; });
    __syncthreads();
    if (level == 0) {
      wanted = wanted_of(bins.total);
      first_bin = bins.chosen;
    } else {
      key_prefix = key_prefix << (level == 3 ? 10 : 11) | static_cast<uint32_t>(bins.chosen);
    }
    above = bins.above;
  }
  short_by = wanted - above;
  return key_prefix;
}

// The first token at which the sum of amount(token) in token order exceeds target(total). Each round cuts the range into 32 parts, shared by the warps.
template <class Amount, class Target> ANNEAL_DEVICE int64_t find_token(int64_t size, TokenBins& bins, const Amount& amount, const Target& target_of) {
  const int lane = threadIdx.x % 32;
  int64_t begin = 0, end = size;
  uint64_t target = 0;
  for (bool first = true; first || end - begin > 1; first = false) {
    const int64_t share = ceil_div(end - begin, 32);
    __syncthreads();
    for (int part = threadIdx.x / 32; part < 32; part += blockDim.x / 32) {
      const int64_t from = begin + part * share, to = from + share < end ? from + share : end;
      uint64_t sum = 0;
      for (int64_t token = from + lane; token < to; token += 32) sum += amount(token);
      sum = warp_sum(sum);
      if (lane == 0) bins.part[part] = sum;
    }
    __syncthreads();
    if (first) {
      uint64_t total = 0;
      for (int part = 0; part < 32; ++part) total += bins.part[part];
      target = target_of(total);
    }
    int chosen = 0;
    while (chosen < 31 && bins.part[chosen] <= target) target -= bins.part[chosen++];
    begin += chosen * share;
    end = begin + share < end ? begin + share : end;
  }
  return begin;
}

}  // namespace anneal::cuda
