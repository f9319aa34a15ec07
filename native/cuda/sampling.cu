// Draws one token per row. Filters come in the order of transformers' processors: repetition penalty, temperature, top-k, top-p, min-p. A block works
// on a row, whose scaled logits are computed anew in each pass rather than stored. A row's token depends on its own logits, options, history and (seed,
// position) only; the uniform number is the CPU's. The log-probability is that of the unfiltered logits, with the bits that the losses give it.
#include <cmath>

#include "../kernels.h"
#include "fault.h"
#include "logsumexp_row.h"
#include "nucleus.h"

namespace anneal::cuda {

constexpr uint64_t sampling_stream = 0x73616d70;  // keeps draws apart from dropout under the same seed

struct SampleOptions { float temperature, top_k, top_p, min_p, repetition_penalty; };
struct SampleArguments {
  int32_t* token;
  float* logprob;
  const float* options;
  const int32_t* history;
  const int32_t* draw;
  int64_t vocabulary, length;
  bool aligned;
  float units;  // of mass in the largest token's
  Fault* fault;
};

// A number and where it stands; of equal numbers the first one is larger.
struct Largest {
  float value;
  int32_t token;
  ANNEAL_DEVICE void take(float other, int32_t other_token) {
    if (other > value || (other == value && other_token < token)) value = other, token = other_token;
  }
};
ANNEAL_DEVICE Largest warp_largest(Largest best) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    best.take(__shfl_xor_sync(0xffffffffu, best.value, distance), __shfl_xor_sync(0xffffffffu, best.token, distance));
  return best;
}
ANNEAL_DEVICE Largest block_largest(Largest best, Largest* room) {
  best = warp_largest(best);
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
  __syncthreads();
  if (lane == 0) room[threadIdx.x / 32] = best;
  __syncthreads();
  return warp_largest(lane < warps ? room[lane] : Largest{-INFINITY, INT32_MAX});
}

// Uniform in [0, 1), 53 bits.
ANNEAL_DEVICE double uniform_of(int32_t seed, int32_t position) {
  const PhiloxWords words = philox(static_cast<uint32_t>(seed), sampling_stream, static_cast<uint32_t>(position));
  return static_cast<double>((static_cast<uint64_t>(words.at[0]) << 32 | words.at[1]) >> 11) * 0x1p-53;
}

// Comparisons that hold for no NaN.
ANNEAL_DEVICE FaultSite wrong_option(const SampleOptions& o) {
  if (!(o.temperature >= 0 && o.temperature < INFINITY)) return FaultSite::sample_temperature;
  if (!(o.top_k >= 0 && o.top_k == truncf(o.top_k))) return FaultSite::sample_top_k;
  if (!(o.top_p >= 0 && o.top_p <= 1)) return FaultSite::sample_top_p;
  if (!(o.min_p >= 0 && o.min_p <= 1)) return FaultSite::sample_min_p;
  if (!(o.repetition_penalty > 0 && o.repetition_penalty < INFINITY)) return FaultSite::sample_penalty;
  return FaultSite::none;
}

// Shared memory of a block; the bits of penalised tokens follow it.
struct SampleRoom {
  TokenBins bins;
  LogSumRoom sums;
  Largest largest[32];
};

// Draws from the tokens that the filters leave. All threads return the token.
template <class T> ANNEAL_DEVICE int64_t draw_token(const TokenRow<T>& row, const SampleOptions& options, double uniform, TokenBins& bins) {
  Cut cut = no_cut;
  uint64_t short_by;
  if (options.top_k > 0 && options.top_k < static_cast<float>(row.size)) {
    const uint64_t wanted = static_cast<uint64_t>(options.top_k);
    cut.key = find_key<TokenMeasure::count>(row, cut, bins, [&](uint64_t) { return wanted; }, short_by);  // those that tie with the k-th stay
  }
  if (options.top_p < 1) {
    const double share = options.top_p;
    auto wanted_of = [&](uint64_t total) {
      const uint64_t wanted = static_cast<uint64_t>(ceil(share * static_cast<double>(total)));
      return wanted > 0 ? wanted : uint64_t{1};
    };
    const uint32_t key = find_key<TokenMeasure::mass>(row, cut, bins, wanted_of, short_by);
    // Tokens of that logit share one mass; the lower numbers stay.
    const float z = __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
    const uint64_t each = row.mass(z), before_last = each > 0 ? (short_by - 1) / each : 0;
    cut = {key, find_token(row.size, bins, [&](int64_t token) { return uint64_t{ordered_bits(row.scaled(token)) == key}; }, [&](uint64_t) { return before_last; })};
  }
  auto amount = [&](int64_t token) {
    const float z = row.scaled(token);
    return is_kept(cut, ordered_bits(z), token) && row.weight(z) >= options.min_p ? row.mass(z) : 0;
  };
  return find_token(row.size, bins, amount, [&](uint64_t total) {
    const uint64_t target = static_cast<uint64_t>(uniform * static_cast<double>(total));
    return target < total ? target : total - 1;
  });
}

template <class T> __global__ void __launch_bounds__(most_logit_threads, 1) sample_kernel(const T* logits, SampleArguments a) {
  ANNEAL_DYNAMIC_SHARED(SampleRoom, room);
  uint32_t* penalised = reinterpret_cast<uint32_t*>(room + 1);
  const int64_t index = blockIdx.x;
  const float* o = a.options + 5 * index;
  const SampleOptions options = {o[0], o[1], o[2], o[3], o[4]};
  const FaultSite wrong = wrong_option(options);
  if (wrong != FaultSite::none) {
    if (threadIdx.x == 0) report(a.fault, wrong, index, index, 0);
    return;
  }
  const bool has_penalty = options.repetition_penalty != 1 && a.length > 0;
  if (has_penalty) {
    for (int64_t i = threadIdx.x; i < ceil_div(a.vocabulary, 32); i += blockDim.x) penalised[i] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < a.length; i += blockDim.x) {
      const int32_t token = a.history[index * a.length + i];
      if (token >= 0 && token < a.vocabulary) atomicOr(&penalised[token / 32], 1u << token % 32);
    }
    __syncthreads();
  }
  TokenRow<T> row = {logits + index * a.vocabulary, has_penalty ? penalised : nullptr, a.vocabulary, a.aligned, options.repetition_penalty, options.temperature, 0, a.units};
  Largest best = {-INFINITY, INT32_MAX};
  auto take = [&](const auto& z, int at) {
    constexpr int length = vector_length<T>;
#pragma unroll
    for (int i = 0; i < logit_pieces * length; ++i) {
      const int64_t token = at + i / length * int64_t{blockDim.x} * length + i % length;
      if (token < a.vocabulary) best.take(row.penalise(z[i], token), static_cast<int32_t>(token));
    }
  };
  const float log_sum = row_log_sum<false>(LogitRow<T>(row.logits, static_cast<int>(a.vocabulary)), 1.f, &room->sums, take).all.log();
  best = block_largest(best, room->largest);
  if (!(fabsf(log_sum) < INFINITY)) {
    if (threadIdx.x == 0) report(a.fault, FaultSite::sample_logits, index, index, 0);
    return;
  }
  // Division keeps the order, so this is the largest of the scaled logits.
  row.largest = options.temperature > 0 ? best.value / options.temperature + 0.f : 0.f;
  int64_t token = best.token;
  // Where the temperature is so small that the largest logit overflows, that one is taken.
  if (options.temperature > 0 && fabsf(row.largest) < INFINITY) token = draw_token(row, options, uniform_of(a.draw[2 * index], a.draw[2 * index + 1]), room->bins);
  if (threadIdx.x != 0) return;
  a.token[index] = static_cast<int32_t>(token);
  a.logprob[index] = to_float(row.logits[token]) - log_sum;
}

void sample(Out token, Out logprob, In logits, In options, MaybeIn history, In draw) {
  const int64_t rows = logits.dim(0), vocabulary = logits.dim(1), length = history ? history->dim(1) : 0;
  // Units of mass so fine that the sum of all tokens' still fits into 64 bits.
  int shift = 62;
  while (vocabulary >> (62 - shift) != 0) --shift;
  const SampleArguments arguments = {token.as<int32_t>(),          logprob.as<float>(),     options.as<const float>(), history ? history->as<const int32_t>() : nullptr,
                                     draw.as<const int32_t>(),     vocabulary,              length,                    rows_aligned(logits),
                                     std::ldexp(1.f, shift < 44 ? shift : 44), fault()};
  const size_t shared = sizeof(SampleRoom) + (length > 0 ? static_cast<size_t>(ceil_div(vocabulary, 32)) * 4 : 0);
  dispatch_float("sample", logits.dtype, [&](auto number) {
    using T = decltype(number);
    launch(sample_kernel<T>, {dim3(static_cast<unsigned>(rows)), dim3(logit_threads(vocabulary)), shared, "sample"}, logits.as<const T>(), arguments);
  });
}

}  // namespace anneal::cuda
