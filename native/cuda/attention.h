// What the attention kernels share: the shape of a call, which keys a query sees, and the plan. Lengths are on the device only, so the host launches as
// many blocks as there can be pieces of work at most, and a first kernel (the plan) checks the spans and lists the pieces: the heaviest first, so that
// the last blocks of a launch are short ones.
#pragma once
#include "device.h"
#include "fault.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr float log2_e = 1.44269504088896341f, log_2 = 0.69314718055994531f;

struct Span {
  int q_begin, q_length, k_begin, k_length;
};
struct Range {
  int begin, end;
};

// A call's shape and options, passed to every kernel.
struct Attention {
  const int32_t* spans;
  int64_t tokens, slots;
  int sequences, heads, kv_heads, head_dim, group;
  float scale, soft_cap;
  float cap_scale;       // scale / soft_cap
  float exponent_scale;  // takes q·k, or the capped score, to the exponent of a power of two
  int window;
  bool causal;

  ANNEAL_DEVICE Span span(int sequence) const {
    const int32_t* s = spans + 4 * static_cast<int64_t>(sequence);
    return {s[0], s[1], s[2], s[3]};
  }
  // The keys that query `row` of a sequence sees.
  ANNEAL_DEVICE Range keys_of(const Span& span, int row) const {
    const int end = causal ? max(0, row + 1 + span.k_length - span.q_length) : span.k_length;
    return {window > 0 ? max(0, end - window) : 0, end};
  }
  // The keys that any of the queries first … last sees.
  ANNEAL_DEVICE Range keys_of(const Span& span, int first, int last) const { return {keys_of(span, first).begin, keys_of(span, last).end}; }
  // The queries that see any of the keys first … last; where !causal all of them see the same.
  ANNEAL_DEVICE Range queries_of(const Span& span, int first, int last) const {
    if (!causal) return {0, window > 0 && last < span.k_length - window ? 0 : span.q_length};
    const int shift = span.k_length - span.q_length, begin = max(0, first - shift);
    const int end = window > 0 ? static_cast<int>(min(static_cast<int64_t>(span.q_length), static_cast<int64_t>(last) + window - shift)) : span.q_length;
    return {begin, max(begin, end)};
  }
  // Offsets of a token's or a slot's first number of one head in q and out, and in k and v.
  ANNEAL_DEVICE int64_t q_offset(int64_t token, int head) const { return (token * heads + head) * head_dim; }
  ANNEAL_DEVICE int64_t k_offset(int64_t slot, int kv_head) const { return (slot * kv_heads + kv_head) * head_dim; }
};

// Whether a span lies inside the tensors; kernels must not follow one that does not.
ANNEAL_DEVICE bool is_inside(int begin, int length, int64_t limit) { return begin >= 0 && length >= 0 && static_cast<int64_t>(begin) + length <= limit; }
ANNEAL_DEVICE bool is_valid(const Attention& a, const Span& span) {
  return is_inside(span.q_begin, span.q_length, a.tokens) && is_inside(span.k_begin, span.k_length, a.slots);
}

// tanh to about 1e-7 absolute.
ANNEAL_DEVICE float tanh_fast(float x) { return 1.f - __fdividef(2.f, 1.f + exp2_fast(2.f * log2_e * x)); }

// One piece of work: a tile of a sequence's queries or keys, or a run of its keys.
struct Piece {
  int sequence, tile;
};
enum class Pieces {
  query_tiles,  // `tile` queries each
  key_tiles,    // `tile` keys each
  key_runs,     // of decoding: see KeyRuns
};
struct PlanShape {
  Pieces kind;
  int tile;
  int64_t limit;
};
struct Plan {
  Pieces kind;
  int tile;
  int limit;  // no more pieces than this are listed: the number of blocks
  Piece* pieces;
  int* count;
};

// How decoding cuts up a sequence: its rows (queries times the heads of a group) into tiles, and the keys that they see into runs. The cut depends on
// the sequence alone, so its bits do not depend on the batch; at most `most` runs, each of whole tiles of keys.
constexpr int run_rows = 16, shortest_run = 256, run_step = 64;
inline int most_key_runs(const Attention& a) { return a.kv_heads >= 16 ? 8 : a.kv_heads <= 2 ? 64 : 128 / a.kv_heads; }
// The runs that a sequence can have where there are so many slots.
inline int stored_runs(const Attention& a) {
  const int64_t longest = ceil_div(a.slots, shortest_run) + 1;
  return static_cast<int>(longest < most_key_runs(a) ? longest : most_key_runs(a));
}
struct KeyRuns {
  int first, length, count;
  ANNEAL_DEVICE static KeyRuns of(const Attention& a, const Span& span, int most) {
    const Range keys = a.keys_of(span, 0, span.q_length - 1);
    const int first = keys.begin / run_step * run_step, range = max(0, keys.end - first);
    const int length = max(shortest_run, (range + most * run_step - 1) / (most * run_step) * run_step);
    return {first, length, max(1, (range + length - 1) / length)};
  }
};

// The call, where it is within the limits of the device's kernels.
Attention describe_attention(const char* kernel, In q, In k, In spans, double scale, bool causal, int64_t window, double soft_cap);
// Whether few queries per sequence make it decoding: not enough rows for a tile each, but many keys to read.
inline bool is_decoding(const Attention& a) { return a.tokens <= int64_t{16} * a.sequences; }
// The pieces of a forward pass, and of a backward pass. `given` is what attention_plan wrote; without it the spans are checked and the pieces listed now.
// half: the kernels of the tensor cores.
struct BackwardPlans {
  Plan queries, keys;
};
Plan forward_plan(const Attention& a, bool half, const Tensor* given);
BackwardPlans backward_plans(const Attention& a, bool half, const Tensor* given);
// Rows of a tile, by the kernels' own choice.
int forward_rows(int head_dim);
int forward_float_rows(int head_dim);
int backward_query_rows(int head_dim);
int backward_key_rows(int head_dim);
int backward_float_rows(int head_dim);

// Operands as the tensor cores take them: bf16, starting at a multiple of 16 bytes. Tensors that are so already are used as they are.
struct HalfOperands {
  const bf16* at[4];
};
HalfOperands half_operands(const Tensor* const* tensors, int count);

// Where a kernel writes: bf16 aligned to 16 bytes, or else numbers of either type one by one.
struct Target {
  bf16* vectors;  // null: use the others
  bf16* half;
  float* full;
};
inline Target target_of(const Tensor& x) {
  const bool is_half = x.dtype == DType::bf16, aligned = reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
  return {is_half && aligned ? x.as<bf16>() : nullptr, is_half ? x.as<bf16>() : nullptr, is_half ? nullptr : x.as<float>()};
}

// A compiled width of a row, as the type of an argument.
template <int value> struct Width { static constexpr int number = value; };

// The kernels behind the two launchers.
void attention_forward_half(const Attention& a, const Plan& plan, const HalfOperands& operands, const Target& out, float* lse);
void attention_decode(const Attention& a, const Plan& plan, const HalfOperands& operands, const Target& out, float* lse);
void attention_forward_float(const Attention& a, const Plan& plan, In q, In k, In v, Out out, float* lse);

}  // namespace anneal::cuda
