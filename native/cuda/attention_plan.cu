// The plan of an attention call, or of all calls of a pass: checks that the spans lie inside the tensors and apart, and lists the pieces of work by falling
// cost. One block per list; pieces of like cost come in any order, which no result depends on. Also the conversion of operands for the tensor cores.
#include "attention.h"

#include <initializer_list>

namespace anneal::cuda {

constexpr int plan_threads = 512, cost_classes = 256;

struct PlanArguments {
  Attention a;
  Plan plans[3];
  FaultSite queries, keys, query_twice, covered, key_twice;  // key_twice none: keys may be shared
  Fault* fault;
  int most_runs;
};

ANNEAL_DEVICE void check_inside(int begin, int length, int64_t limit, int sequence, Fault* fault, FaultSite site) {
  const int64_t reached = begin < 0 || length < 0 ? min(begin, length) : static_cast<int64_t>(begin) + length;
  if (!is_inside(begin, length, limit)) report(fault, site, sequence, reached, limit);
}

// Spans that do not rise are compared each with each: they are few or rare.
ANNEAL_DEVICE void check_apart(const Attention& a, int part, Fault* fault, FaultSite site) {
  bool rising = true;
  for (int s = threadIdx.x + 1; s < a.sequences; s += plan_threads) {
    const int32_t* x = a.spans + 4 * static_cast<int64_t>(s) + part;
    rising &= static_cast<int64_t>(x[-4]) + x[-3] <= x[0];
  }
  if (!__syncthreads_or(!rising)) return;
  for (int s = threadIdx.x; s < a.sequences; s += plan_threads)
    for (int other = 0; other < s; ++other) {
      const int32_t *x = a.spans + 4 * static_cast<int64_t>(s) + part, *y = a.spans + 4 * static_cast<int64_t>(other) + part;
      const int64_t begin = max(x[0], y[0]), end = min(static_cast<int64_t>(x[0]) + x[1], static_cast<int64_t>(y[0]) + y[1]);
      if (begin < end && x[1] > 0 && y[1] > 0) report(fault, site, s, begin, 0);
    }
}

ANNEAL_DEVICE void check_spans(const PlanArguments& p, int64_t* room) {
  const Attention& a = p.a;
  int64_t covered = 0;
  for (int s = threadIdx.x; s < a.sequences; s += plan_threads) {
    const Span span = a.span(s);
    check_inside(span.q_begin, span.q_length, a.tokens, s, p.fault, p.queries);
    check_inside(span.k_begin, span.k_length, a.slots, s, p.fault, p.keys);
    covered += span.q_length;
  }
  check_apart(a, 0, p.fault, p.query_twice);
  if (p.key_twice != FaultSite::none) check_apart(a, 2, p.fault, p.key_twice);
  covered = block_reduce<Sum>(covered, room);
  if (threadIdx.x == 0 && covered != a.tokens) report(p.fault, p.covered, a.tokens, covered, 0);
}

ANNEAL_DEVICE int count_pieces(const Attention& a, const Plan& plan, const Span& span, int most_runs) {
  switch (plan.kind) {
    case Pieces::query_tiles: return (span.q_length + plan.tile - 1) / plan.tile;
    case Pieces::key_tiles: return (span.k_length + plan.tile - 1) / plan.tile;
    default: return span.q_length == 0 ? 0 : KeyRuns::of(a, span, most_runs).count * ((span.q_length * a.group + run_rows - 1) / run_rows);
  }
}
// How many keys a piece's queries see, or how many queries see its keys, in sixteenths.
ANNEAL_DEVICE int cost_of(const Attention& a, const Plan& plan, const Span& span, int tile) {
  const int first = tile * plan.tile;
  if (plan.kind == Pieces::key_runs) return 0;
  const Range other = plan.kind == Pieces::query_tiles ? a.keys_of(span, first, min(first + plan.tile, span.q_length) - 1)
                                                       : a.queries_of(span, first, min(first + plan.tile, span.k_length) - 1);
  return max(0, other.end - other.begin) / 16;
}

__global__ void __launch_bounds__(plan_threads) attention_plan_kernel(PlanArguments p) {
  ANNEAL_SHARED(int64_t, room, 32);
  ANNEAL_SHARED(int, first_of, cost_classes);
  const Attention& a = p.a;
  const Plan plan = p.plans[blockIdx.x];
  if (blockIdx.x == 0) check_spans(p, room);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int longest = 0;
  for (int s = threadIdx.x; s < a.sequences; s += plan_threads) {
    const Span span = a.span(s);
    if (is_valid(a, span)) longest = max(longest, plan.kind == Pieces::query_tiles ? span.k_length : span.q_length);
  }
  const int width = static_cast<int>(block_reduce<Max>(static_cast<int64_t>(longest), room)) / 16 / cost_classes + 1;
  for (int i = threadIdx.x; i < cost_classes; i += plan_threads) first_of[i] = 0;
  __syncthreads();
  // Two rounds over all pieces: the first counts the classes of cost, the second gives each piece its place.
  for (int round = 0; round < 2; ++round) {
    for (int s = warp; s < a.sequences; s += plan_threads / 32) {
      const Span span = a.span(s);
      if (!is_valid(a, span)) continue;
      const int count = count_pieces(a, plan, span, p.most_runs);
      for (int i = lane; i < count; i += 32) {
        const int at = atomicAdd(&first_of[cost_classes - 1 - cost_of(a, plan, span, i) / width], 1);
        if (round == 1 && at < plan.limit) plan.pieces[at] = {s, i};
      }
    }
    __syncthreads();
    if (round == 0) {
      int before = 0;
      const int own = threadIdx.x < cost_classes ? first_of[threadIdx.x] : 0;
      for (int i = 0; i < static_cast<int>(threadIdx.x) && i < cost_classes; ++i) before += first_of[i];
      __syncthreads();
      if (threadIdx.x < cost_classes) first_of[threadIdx.x] = before;
      if (threadIdx.x == cost_classes - 1) *plan.count = min(before + own, plan.limit);
      __syncthreads();
    }
  }
}

constexpr int half_threads = 256;
struct HalfCopies {
  const void* from[4];
  bf16* to[4];
  int64_t size[4];
  bool from_float[4];
};
__global__ void __launch_bounds__(half_threads) attention_half_kernel(HalfCopies copies) {
  const int which = blockIdx.y;
  const int64_t size = copies.size[which] / 8;
  bf16* to = copies.to[which];
  for (int64_t i = int64_t{blockIdx.x} * half_threads + threadIdx.x; i < size; i += int64_t{gridDim.x} * half_threads) {
    float v[8];
    if (copies.from_float[which]) {
      const float* from = static_cast<const float*>(copies.from[which]) + 8 * i;
      if (reinterpret_cast<uintptr_t>(from) % 16 == 0) {
        float low[4], high[4];
        load_vector_once(low, from);
        load_vector_once(high, from + 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = low[j], v[j + 4] = high[j];
      } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) v[j] = from[j];
      }
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) v[j] = to_float(static_cast<const bf16*>(copies.from[which])[8 * i + j]);
    }
    store_vector(to + 8 * i, v);
  }
}

HalfOperands half_operands(const Tensor* const* tensors, int count) {
  HalfOperands operands{};
  HalfCopies copies{};
  int wanted = 0;
  int64_t most = 0;
  for (int i = 0; i < count; ++i) {
    const Tensor& x = *tensors[i];
    if (x.dtype == DType::bf16 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0) {
      operands.at[i] = x.as<bf16>();
      continue;
    }
    bf16* to = scratch_of<bf16>(x.size);
    operands.at[i] = to;
    copies.from[wanted] = x.data;
    copies.to[wanted] = to;
    copies.size[wanted] = x.size;
    copies.from_float[wanted] = x.dtype == DType::f32;
    most = x.size > most ? x.size : most;
    ++wanted;
  }
  const int64_t blocks = ceil_div(most, half_threads * 8);
  if (wanted) launch(attention_half_kernel, {dim3(static_cast<unsigned>(blocks < 8192 ? blocks : 8192), wanted), dim3(half_threads)}, copies);
  return operands;
}

Attention describe_attention(const char* kernel, In q, In k, In spans, double scale, bool causal, int64_t window, double soft_cap) {
  constexpr int64_t most = int64_t{1} << 30;
  ANNEAL_CHECK(q.dim(0) < most && k.dim(0) < most && spans.dim(0) < most && q.dim(1) <= 65535,
      "%s: more than 2^30 tokens, slots or sequences, or 65535 heads", kernel);
  Attention a{};
  a.spans = spans.as<int32_t>();
  a.tokens = q.dim(0), a.slots = k.dim(0), a.sequences = static_cast<int>(spans.dim(0));
  a.heads = static_cast<int>(q.dim(1)), a.kv_heads = static_cast<int>(k.dim(1)), a.head_dim = static_cast<int>(q.dim(2)), a.group = a.heads / a.kv_heads;
  a.scale = static_cast<float>(scale), a.soft_cap = static_cast<float>(soft_cap);
  a.cap_scale = soft_cap > 0 ? a.scale / a.soft_cap : 0.f;
  a.exponent_scale = soft_cap > 0 ? log2_e : a.scale * log2_e;
  a.window = static_cast<int>(window < most ? window : most);
  a.causal = causal;
  return a;
}

namespace {

PlanShape forward_shape(const Attention& a, bool half) {
  if (half && is_decoding(a)) return {Pieces::key_runs, run_rows, (a.tokens * a.group / run_rows + a.sequences) * stored_runs(a)};
  const int rows = half ? forward_rows(a.head_dim) : forward_float_rows(a.head_dim);
  return {Pieces::query_tiles, rows, a.tokens / rows + a.sequences};
}
PlanShape query_shape(const Attention& a, bool half) {
  const int rows = half ? backward_query_rows(a.head_dim) : backward_float_rows(a.head_dim);
  return {Pieces::query_tiles, rows, a.tokens / rows + a.sequences};
}
PlanShape key_shape(const Attention& a, bool half) {
  const int rows = half ? backward_key_rows(a.head_dim) : backward_float_rows(a.head_dim);
  return {Pieces::key_tiles, rows, a.slots / rows + a.sequences};
}

// Lists lie one after another: the count, a number left free, and two numbers for each piece.
class PlanRoom {
 public:
  PlanRoom(int32_t* room, int64_t size) : room_(room), size_(size) {}
  Plan take(const PlanShape& shape) {
    ANNEAL_CHECK(shape.limit < int64_t{1} << 31, "attention: the call has more than 2^31 pieces of work");
    const int64_t at = used_;
    used_ += 2 + 2 * shape.limit;
    ANNEAL_CHECK(used_ <= size_, "attention: plan must have at least %lld numbers for these shapes, but has %lld", static_cast<long long>(used_), static_cast<long long>(size_));
    return {shape.kind, shape.tile, static_cast<int>(shape.limit), reinterpret_cast<Piece*>(room_ + at + 2), room_ + at};
  }

 private:
  int32_t* room_;
  int64_t size_, used_ = 0;
};
PlanRoom scratch_room(std::initializer_list<PlanShape> shapes) {
  int64_t size = 0;
  for (const PlanShape& shape : shapes) size += 2 + 2 * shape.limit;
  return {scratch_of<int32_t>(size), size};
}
PlanRoom room_of(const Tensor& plan) {
  ANNEAL_CHECK(reinterpret_cast<uintptr_t>(plan.data) % 8 == 0, "attention: plan must start at a multiple of 8 bytes");
  return {plan.as<int32_t>(), plan.size};
}

// Checks the spans and lists the pieces of `count` plans. apart: the sequences' keys must be, as their gradients are written by one sequence each.
void run_plans(const Attention& a, bool in_backward, bool apart, const Plan (&plans)[3], int count) {
  PlanArguments p{a, {plans[0], plans[1], plans[2]}, FaultSite::attention_queries, FaultSite::attention_keys, FaultSite::attention_query_twice,
      FaultSite::attention_covered, apart ? FaultSite::attention_backward_key_twice : FaultSite::none, fault(), most_key_runs(a)};
  if (in_backward) {
    p.queries = FaultSite::attention_backward_queries, p.keys = FaultSite::attention_backward_keys, p.query_twice = FaultSite::attention_backward_query_twice;
    p.covered = FaultSite::attention_backward_covered;
  }
  launch(attention_plan_kernel, {dim3(count), dim3(plan_threads), 0, "attention_plan"}, p);
}

}  // namespace

Plan forward_plan(const Attention& a, bool half, const Tensor* given) {
  const PlanShape shape = forward_shape(a, half);
  if (given) return room_of(*given).take(shape);
  const Plan plan = scratch_room({shape}).take(shape);
  run_plans(a, false, false, {plan}, 1);
  return plan;
}

BackwardPlans backward_plans(const Attention& a, bool half, const Tensor* given) {
  const PlanShape queries = query_shape(a, half), keys = key_shape(a, half);
  PlanRoom room = given ? room_of(*given) : scratch_room({queries, keys});
  if (given) room.take(forward_shape(a, half));
  const Plan query_plan = room.take(queries), key_plan = room.take(keys);
  if (!given) run_plans(a, true, true, {query_plan, key_plan}, 2);
  return {query_plan, key_plan};
}

void attention_plan(Out plan, In q, In k, In spans, bool causal, int64_t window, bool half, bool backward) {
  const Attention a = describe_attention("attention_plan", q, k, spans, 1, causal, window, 0);
  const bool on_tensor_cores = half || q.dtype == DType::bf16;
  PlanRoom room = room_of(plan);
  Plan plans[3] = {room.take(forward_shape(a, on_tensor_cores))};
  if (backward) plans[1] = room.take(query_shape(a, on_tensor_cores)), plans[2] = room.take(key_shape(a, on_tensor_cores));
  run_plans(a, false, backward, plans, backward ? 3 : 1);
}

}  // namespace anneal::cuda
