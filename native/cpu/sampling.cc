// Draws one token per row. Filters come in the order of transformers' processors: repetition penalty, temperature,
// top-k, top-p, min-p. A row's token depends on its own logits, options, history and (seed, position) only. The
// log-probability is that of the unfiltered logits, by logsumexp.h.
#include <math.h>

#include "isa.h"
#include "logsumexp.h"
#include "nucleus.h"
#include "random.h"

namespace anneal::cpu::ANNEAL_ISA {

namespace {

constexpr int scratch_slot = 6;
constexpr int64_t piece = 1024;                  // tokens per partial sum of the draw
constexpr uint64_t sampling_stream = 0x73616d70;  // keeps draws apart from dropout under the same seed

struct Options { float temperature, top_k, top_p, min_p, repetition_penalty; };

// The first index of the largest of n > 0 values.
template <class T> int64_t first_largest(const T* x, int64_t n) {
  int64_t best = 0;
  float largest = to_float(x[0]);
  for (int64_t base = 0; base < n; base += piece) {
    const int64_t count = n - base < piece ? n - base : piece;
    vf top[4] = {splat(largest), splat(largest), splat(largest), splat(largest)};
    int64_t i = 0;
    for (; i + 4 * lanes <= count; i += 4 * lanes)
      for (int k = 0; k < 4; ++k) top[k] = max(top[k], load(x + base + i + k * lanes));
    float found = max(max(max(top[0], top[1]), max(top[2], top[3])));
    for (; i < count; ++i) found = to_float(x[base + i]) > found ? to_float(x[base + i]) : found;
    if (found == largest) continue;
    largest = found;
    for (best = base; to_float(x[best]) != largest;) ++best;
  }
  return best;
}

// Uniform in [0, 1), 53 bits.
double uniform(int32_t seed, int32_t position) {
  PhiloxWords words = philox(static_cast<uint32_t>(seed), sampling_stream, static_cast<uint32_t>(position));
  uint64_t bits = (static_cast<uint64_t>(words.at[0]) << 32 | words.at[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

// row.logit = logits with the penalty of the tokens of history: negative logits are multiplied by it and others
// divided.
template <class T>
void penalise(const TokenRow& row, const T* logits, const int32_t* history, int64_t length, float penalty) {
  each_vector(row.size, [&](int64_t i, auto span) { store(row.logit + i, load(logits + i, span), span); });
  if (penalty == 1) return;
  for (int64_t i = 0; i < length; ++i) {
    if (history[i] < 0 || history[i] >= row.size) continue;
    float logit = to_float(logits[history[i]]);
    row.logit[history[i]] = logit < 0 ? logit * penalty : logit / penalty;
  }
}

// Divides the logits by the temperature and sets row.weight; false where the temperature is so small that the largest
// logit overflows.
bool weigh(const TokenRow& row, float temperature) {
  vf top[4] = {splat(-INFINITY), splat(-INFINITY), splat(-INFINITY), splat(-INFINITY)};
  // + 0 turns -0 into 0, which the radix select would tell apart.
  each_vector_by_4(row.size, [&](int64_t i, auto span, int k) {
    vf z = load(row.logit + i, span) / temperature + 0.f;
    store(row.logit + i, z, span);
    if constexpr (span.whole) top[k] = max(top[k], z);
    else
      for (int j = 0; j < span.n; ++j) top[k][0] = z[j] > top[k][0] ? z[j] : top[k][0];
  });
  const float largest = max(max(max(top[0], top[1]), max(top[2], top[3])));
  if (!isfinite(largest)) return false;
  each_vector(row.size,
              [&](int64_t i, auto span) { store(row.weight + i, exp_low(load(row.logit + i, span) - largest), span); });
  return true;
}

double total_weight(const TokenRow& row, Cut cut) {
  double total = 0;
  for (int64_t base = 0; base < row.size; base += piece) {
    vf lane_sums[4] = {};
    each_vector_by_4(row.size - base < piece ? row.size - base : piece, [&](int64_t i, auto span, int k) {
      vf kept = select((vi)(load(row.logit + base + i, span) >= cut.logit), load(row.weight + base + i, span), vf{});
      lane_sums[k] += inside(kept, span);
    });
    total += static_cast<double>(sum((lane_sums[0] + lane_sums[1]) + (lane_sums[2] + lane_sums[3])));
  }
  return total;
}

// Sets the weights of removed tokens to 0 and draws by the inverse of the cumulative sum in token order.
int64_t draw_token(const TokenRow& row, Cut cut, float min_p, double uniform) {
  double* sums = row.bin;  // one per piece; the caller made room
  double total = 0;
  int64_t pieces = 0;
  for (int64_t base = 0; base < row.size; base += piece, ++pieces) {
    vf lane_sums[4] = {};
    each_vector_by_4(row.size - base < piece ? row.size - base : piece, [&](int64_t i, auto span, int k) {
      vf logit = load(row.logit + base + i, span), weight = load(row.weight + base + i, span);
      vi equal_kept = lane_numbers() <= static_cast<int32_t>(cut.token - base - i);
      vi kept = ((vi)(logit > cut.logit) | ((vi)(logit == cut.logit) & equal_kept)) & (vi)(weight >= min_p);
      weight = inside((vf)(kept & (vi)weight), span);
      store(row.weight + base + i, weight, span);
      lane_sums[k] += weight;
    });
    sums[pieces] = static_cast<double>(sum((lane_sums[0] + lane_sums[1]) + (lane_sums[2] + lane_sums[3])));
    total += sums[pieces];
  }
  // Rounding may let the target reach the end of the pieces or of a piece: the last token of positive weight before it
  // is then drawn.
  const double target = uniform * total;
  double before = 0;
  int64_t chosen = 0;
  for (int64_t p = 0; p < pieces; ++p) {
    if (sums[p] <= 0) continue;
    chosen = p;
    if (before + sums[p] > target) break;
    before += sums[p];
  }
  const int64_t end = (chosen + 1) * piece < row.size ? (chosen + 1) * piece : row.size;
  int64_t token = chosen * piece;
  for (int64_t i = token; i < end; ++i) {
    if (row.weight[i] <= 0) continue;
    token = i;
    before += static_cast<double>(row.weight[i]);
    if (before > target) break;
  }
  return token;
}

template <class T>
int64_t choose(const TokenRow& row, const T* logits, const Options& options, const int32_t* history, int64_t length,
               const int32_t* draw) {
  const bool penalty = options.repetition_penalty != 1 && length > 0;
  if (options.temperature == 0 && !penalty) return first_largest(logits, row.size);
  auto penalise_row = [&] { penalise(row, logits, history, length, penalty ? options.repetition_penalty : 1); };
  penalise_row();
  if (options.temperature == 0) return first_largest(row.logit, row.size);
  if (!weigh(row, options.temperature)) {
    penalise_row();
    return first_largest(row.logit, row.size);
  }
  Cut cut = no_cut;
  if (options.top_k > 0 && options.top_k < static_cast<float>(row.size)) {
    cut = find_cut<TokenMeasure::count>(row, cut, static_cast<double>(options.top_k));
    cut.token = all_tokens;  // those that tie with the k-th stay
  }
  if (options.top_p < 1)
    cut = find_cut<TokenMeasure::mass>(row, cut, static_cast<double>(options.top_p) * total_weight(row, cut));
  return draw_token(row, cut, options.min_p, uniform(draw[0], draw[1]));
}

void check_options(const float* o, int64_t row) {
  const long long r = static_cast<long long>(row);
  ANNEAL_CHECK(o[0] >= 0 && o[0] < INFINITY, "sample: the temperature of row %lld must be at least 0, but is %g", r,
               static_cast<double>(o[0]));
  ANNEAL_CHECK(o[1] >= 0 && o[1] == truncf(o[1]),
               "sample: top_k of row %lld must be a whole number of at least 0, but is %g", r,
               static_cast<double>(o[1]));
  ANNEAL_CHECK(o[2] >= 0 && o[2] <= 1, "sample: top_p of row %lld must be between 0 and 1, but is %g", r,
               static_cast<double>(o[2]));
  ANNEAL_CHECK(o[3] >= 0 && o[3] <= 1, "sample: min_p of row %lld must be between 0 and 1, but is %g", r,
               static_cast<double>(o[3]));
  ANNEAL_CHECK(o[4] > 0 && o[4] < INFINITY, "sample: the repetition penalty of row %lld must be above 0, but is %g", r,
               static_cast<double>(o[4]));
}

}  // namespace

void sample(Out token, Out logprob, In logits, In options, MaybeIn history, In draw) {
  const int64_t rows = logits.dim(0), vocabulary = logits.dim(1), length = history ? history->dim(1) : 0;
  for (int64_t row = 0; row < rows; ++row) check_options(options.as<const float>() + 5 * row, row);

  // Per thread: logits, weights, members and bins, of which draw_token needs one per piece.
  const int64_t padded = (vocabulary + 63) / 64 * 64, pieces = padded / piece + 1,
                bins = pieces > token_bins ? pieces : token_bins;
  const int64_t stride = padded * 12 + (bins + 7) / 8 * 64;
  const int most_threads = rows < pool().size() ? static_cast<int>(rows) : pool().size();
  char* memory = static_cast<char*>(pool().scratch(scratch_slot, static_cast<size_t>(stride * most_threads + 1)));
  parallel(vocabulary * rows < 8192 ? 1 : most_threads, [&](int thread, int) {
    char* own = memory + stride * thread;
    const TokenRow work = {vocabulary, reinterpret_cast<float*>(own), reinterpret_cast<float*>(own + padded * 4),
                           reinterpret_cast<int32_t*>(own + padded * 8), reinterpret_cast<double*>(own + padded * 12)};
    take_tickets(rows, [&](int64_t row) {
      const float* o = options.as<const float>() + 5 * row;
      auto run = [&](const auto* x) {
        LogSum all = row_log_sum(x, vocabulary);
        logprob.as<float>()[row] = all.log();
        if (!isfinite(all.log())) return;  // reported below
        int64_t chosen = choose(work, x, Options{o[0], o[1], o[2], o[3], o[4]},
                                history ? history->as<const int32_t>() + row * length : nullptr, length,
                                draw.as<const int32_t>() + 2 * row);
        token.as<int32_t>()[row] = static_cast<int32_t>(chosen);
        logprob.as<float>()[row] = to_float(x[chosen]) - all.log();
      };
      if (logits.dtype == DType::f32) run(logits.as<const float>() + row * vocabulary);
      else run(logits.as<const bf16>() + row * vocabulary);
    });
  });
  for (int64_t row = 0; row < rows; ++row)
    ANNEAL_CHECK(isfinite(logprob.as<const float>()[row]),
                 "sample: the logits of row %lld hold NaN or infinity, or nothing above -infinity",
                 static_cast<long long>(row));
}

}  // namespace anneal::cpu::ANNEAL_ISA
