// The divergence of a student from a teacher, both given by hidden states and output layer, or the teacher by its most probable tokens: loss and gradient
// without logits of all tokens. One block takes a row of logits; most of the work is the products'.
#include "divergence.h"

#include "../kernels.h"
#include "loss_linear.h"

namespace anneal::cuda {

struct DivergenceArguments {
  float *divergence, *nll, *correct;
  const int32_t* labels;
  Mixture mix;
  DivergenceScales by;
  Fault* fault;
};

struct NoGradient {};

// Of a row of logits: its log-sums at temperature 1 and at that of the divergence, and whether the label has the largest logit, of equal ones the first.
struct RowSums {
  LogSum hard;
  float lse;
  bool beaten;
};
ANNEAL_DEVICE RowSums row_sums(const float* logits, const LogitChunk& chunk, int label, float chosen, float scale, LogSumRoom* room) {
  bool beaten = false;
  const LogSum hard = capped_log_sum<false>(logits, chunk, 1, room, [&](float logit, int j) { beaten |= logit == chosen && j < label; }).all;
  const float lse = scale == 1 ? hard.log() : capped_log_sum<false>(logits, chunk, scale, room, [](float, int) {}).all.log();
  return {hard, lse, beaten};
}

ANNEAL_DEVICE void write_nothing(const DivergenceArguments& a, int64_t token) {
  if (threadIdx.x == 0) a.divergence[token] = a.nll[token] = a.correct[token] = 0;
}

// f(v) for the pieces of 8 places of a row that are the calling thread's, behind a barrier: what f writes may overwrite what threads to the left have read.
template <class G, class F> ANNEAL_DEVICE void map_row(float* row, const LogitChunk& chunk, F&& f) {
  constexpr int length = 8;
  const int step = blockDim.x * length;
  for (int at = threadIdx.x * length, first = 0; first < chunk.stride; first += step, at += step) {
    float v[length];
    const bool inside = at < chunk.stride;
    if (inside) {
      float low[4], high[4];
      load_vector(low, row + at);
      load_vector(high, row + at + 4);
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = low[k], v[k + 4] = high[k];
    }
    __syncthreads();
    if (!inside) continue;
    f(v, at);
#pragma unroll
    for (int k = 0; k < length; ++k) v[k] = at + k < chunk.columns ? v[k] : 0.f;
    G* out = reinterpret_cast<G*>(row) + at;
    if constexpr (sizeof(G) == 2) {
      store_vector(out, v);
    } else {
      store_vector(out, {v[0], v[1], v[2], v[3]});
      store_vector(out + 4, {v[4], v[5], v[6], v[7]});
    }
  }
}

// G: the gradient's type, or NoGradient.
template <class G, Side side>
__global__ void __launch_bounds__(most_logit_threads) linear_divergence_kernel(LogitChunk chunk, LogitChunk taught, DivergenceArguments a) {
  constexpr bool with_gradient = !std::is_same_v<G, NoGradient>;
  constexpr int length = 4;
  ANNEAL_SHARED(LogSumRoom, room, 1);
  const int64_t row = chunk_row(), token = chunk.first + row;
  float* logits = chunk.logits + row * chunk.stride;
  const float* teacher = taught.logits + row * taught.stride;
  const int label = a.labels[token];
  if (!counts(label, chunk.columns, token, a.fault, FaultSite::linear_divergence_label)) {
    write_nothing(a, token);
    if constexpr (with_gradient) write_zeros(reinterpret_cast<G*>(logits), chunk.stride);
    return;
  }
  const float chosen = logits[label], scale = a.by.scale;
  const RowSums own = row_sums(logits, chunk, label, chosen, scale, room);
  const float teacher_lse = capped_log_sum<false>(teacher, taught, scale, room, [](float, int) {}).all.log();
  DivergenceSums mine = {0, 0};
  for (int at = threadIdx.x * length; at < chunk.columns; at += blockDim.x * length) {
    float s[length], t[length];
    load_vector_once(s, logits + at);
    load_vector_once(t, teacher + at);
#pragma unroll
    for (int k = 0; k < length; ++k)
      if (at + k < chunk.columns) add_place<side>(mine, log_probability(s[k], scale, own.lse), log_probability(t[k], scale, teacher_lse), a.mix);
  }
  const DivergenceSums sums = block_sums<side>(mine, room->numbers);
  const bool beaten = __syncthreads_or(own.beaten);
  const float hard_lse = own.hard.log();
  if (threadIdx.x == 0) {
    a.divergence[token] = sums.template value<side>(a.mix);
    a.nll[token] = hard_lse - chosen;
    a.correct[token] = chosen == own.hard.max && !beaten ? 1 : 0;
  }
  if constexpr (with_gradient) {
    map_row<G>(logits, chunk, [&](float(&v)[8], int at) {
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        if (at + k >= chunk.columns) continue;
        const float s = log_probability(v[k], scale, own.lse), t = log_probability(teacher[at + k], scale, teacher_lse);
        float gradient = place_gradient<side>(s, t, a.mix, sums) * a.by.soft;
        if (a.by.hard != 0) gradient = fmaf(expf(v[k] - hard_lse), a.by.hard, gradient);
        v[k] = at + k == label ? gradient - a.by.hard : gradient;
      }
    });
  }
}

// --- Recorded distributions ---

struct TopArguments {
  const int32_t* id;
  const float* logprob;
  float *kept, *chosen;  // [rows, k] and [rows]: the student's logits of the ids and of the label
  int k;
  bool renormalise;
};

// Takes the logits of the ids out of each row, leaving -infinity.
__global__ void __launch_bounds__(256) take_top_kernel(LogitChunk chunk, DivergenceArguments a, TopArguments top) {
  const int64_t row = blockIdx.x, token = chunk.first + row;
  float* logits = chunk.logits + row * chunk.stride;
  const int32_t* id = top.id + token * top.k;
  const int label = a.labels[token];
  if (threadIdx.x == 0) top.chosen[row] = label >= 0 && label < chunk.columns ? logits[label] : 0;
  for (int i = threadIdx.x; i < top.k; i += blockDim.x) {
    const int one = id[i];
    const bool inside = one >= 0 && one < chunk.columns;
    if (!inside) report(a.fault, FaultSite::linear_top_divergence_id, token * top.k + i, one, chunk.columns);
    top.kept[row * top.k + i] = inside ? logits[one] : 0;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < top.k; i += blockDim.x)
    if (id[i] >= 0 && id[i] < chunk.columns) logits[id[i]] = -INFINITY;
}

// log(sum(e^(x * scale))) of k numbers, by the block.
ANNEAL_DEVICE LogSum few_log_sum(const float* x, int k, float scale, LogSumRoom* room) {
  LogSum mine = empty_log_sum;
  for (int i = threadIdx.x; i < k; i += blockDim.x) {
    const float one[1] = {x[i] * scale};
    add_group(mine, one);
  }
  return block_log_sum(mine, room->all);
}

// What is left to the tokens that were not recorded is at least this.
constexpr float least_tail = 0x1p-23f;

template <class G, Side side>
__global__ void __launch_bounds__(most_logit_threads) linear_top_divergence_kernel(LogitChunk chunk, DivergenceArguments a, TopArguments top) {
  constexpr bool with_gradient = !std::is_same_v<G, NoGradient>;
  ANNEAL_SHARED(LogSumRoom, room, 1);
  const int64_t row = chunk_row(), token = chunk.first + row;
  float* logits = chunk.logits + row * chunk.stride;
  const int label = a.labels[token];
  if (!counts(label, chunk.columns, token, a.fault, FaultSite::linear_top_divergence_label)) {
    write_nothing(a, token);
    if constexpr (with_gradient) write_zeros(reinterpret_cast<G*>(logits), chunk.stride);
    return;
  }
  const int32_t* id = top.id + token * top.k;
  const float *teacher = top.logprob + token * top.k, *kept = top.kept + row * top.k;
  const float chosen = top.chosen[row], scale = a.by.scale;
  bool beaten = false;
  const LogSum tail = capped_log_sum<false>(logits, chunk, scale, room, [&](float logit, int j) { beaten |= logit == chosen && j < label; }).all;
  const LogSum hard_tail = scale == 1 ? tail : capped_log_sum<false>(logits, chunk, 1, room, [](float, int) {}).all;
  const LogSum hard = fold(hard_tail, few_log_sum(kept, top.k, 1, room));
  const float lse = fold(tail, few_log_sum(kept, top.k, scale, room)).log(), hard_lse = hard.log(), tail_lse = tail.log();
  const float teacher_log = few_log_sum(teacher, top.k, 1, room).log(), shift = top.renormalise ? teacher_log : 0;
  const bool has_tail = tail.sum > 0;
  const float tail_student = fmaxf(lowest_log, tail_lse - lse);
  const float tail_teacher = top.renormalise ? lowest_log : logf(fmaxf(1 - expf(teacher_log), least_tail));
  auto student_at = [&](int i) { return log_probability(kept[i], scale, lse); };
  auto teacher_at = [&](int i) { return fmaxf(lowest_log, teacher[i] - shift); };
  DivergenceSums mine = {0, 0};
  for (int i = threadIdx.x; i < top.k; i += blockDim.x) {
    beaten |= kept[i] == chosen && id[i] < label;
    add_place<side>(mine, student_at(i), teacher_at(i), a.mix);
  }
  if (has_tail && threadIdx.x == 0) add_place<side>(mine, tail_student, tail_teacher, a.mix);
  const DivergenceSums sums = block_sums<side>(mine, room->numbers);
  beaten = __syncthreads_or(beaten);
  if (threadIdx.x == 0) {
    a.divergence[token] = sums.template value<side>(a.mix);
    a.nll[token] = hard_lse - chosen;
    a.correct[token] = chosen == hard.max && !beaten ? 1 : 0;
  }
  if constexpr (with_gradient) {
    auto finished = [&](float gradient, float logit, int j) {
      if (a.by.hard != 0) gradient = fmaf(expf(logit - hard_lse), a.by.hard, gradient);
      return j == label ? gradient - a.by.hard : gradient;
    };
    // A token of the tail has its share of the tail's gradient: its probability among the tail's.
    const float shared = has_tail ? place_gradient<side>(tail_student, tail_teacher, a.mix, sums) * a.by.soft : 0.f, base = has_tail ? tail_lse : 0.f;
    map_row<G>(logits, chunk, [&](float(&v)[8], int at) {
#pragma unroll
      for (int k = 0; k < 8; ++k) v[k] = finished(expf(fmaf(v[k], scale, -base)) * shared, v[k], at + k);
    });
    __syncthreads();
    for (int i = threadIdx.x; i < top.k; i += blockDim.x) {
      const float gradient = place_gradient<side>(student_at(i), teacher_at(i), a.mix, sums) * a.by.soft;
      if (id[i] >= 0 && id[i] < chunk.columns) reinterpret_cast<G*>(logits)[id[i]] = from_float<G>(finished(gradient, kept[i], id[i]));
    }
  }
}

// --- Launchers ---

struct DivergenceOutputs {
  const Tensor &divergence, &nll, &correct;
};

static DivergenceArguments arguments_of(const LinearHead& head, const DivergenceOutputs& out, double beta, double temperature, double soft_scale,
                                        double hard_scale) {
  return {out.divergence.as<float>(), out.nll.as<float>(), out.correct.as<float>(), head.labels.as<const int32_t>(),
          {static_cast<float>(1 - beta), static_cast<float>(beta), static_cast<float>(std::log1p(-beta)), static_cast<float>(std::log(beta))},
          {static_cast<float>(1 / temperature), static_cast<float>(soft_scale / temperature), static_cast<float>(hard_scale)},
          fault()};
}

// f(side, gradient's type) with both as constants.
template <Side value> struct SideOf {
  static constexpr Side side = value;
};
template <class F> static void with_variant(double beta, bool gradient, bool half, F&& f) {
  auto typed = [&](auto side) {
    if (!gradient) f(side, NoGradient{});
    else if (half) f(side, bf16{});
    else f(side, float{});
  };
  if (beta == 0) typed(SideOf<Side::forward>{});
  else if (beta == 1) typed(SideOf<Side::reverse>{});
  else typed(SideOf<Side::mixed>{});
}

void linear_divergence(Out divergence, Out nll, Out correct, MaybeOut dhidden, MaybeInOut dweight, MaybeInOut dbias, In hidden, In weight, MaybeIn bias,
                       In teacher_hidden, In teacher_weight, MaybeIn teacher_bias, In labels, double beta, double temperature, double soft_scale,
                       double hard_scale, bool accumulate, bool half, bool teacher_half) {
  const LinearHead head = {"linear_divergence", hidden, weight, bias, labels, 0, half};
  const LinearHead teacher = {"linear_divergence of the teacher", teacher_hidden, teacher_weight, teacher_bias, labels, 0, teacher_half};
  const HeadGradients gradients = {dhidden, dweight, dbias};
  const DivergenceArguments a = arguments_of(head, {divergence, nll, correct}, beta, temperature, soft_scale, hard_scale);
  const int64_t columns = head.vocabulary() < teacher.vocabulary() ? head.vocabulary() : teacher.vocabulary();
  with_variant(beta, gradients.wanted(), half, [&](auto side, auto type) {
    const auto kernel = linear_divergence_kernel<decltype(type), decltype(side)::side>;
    each_chunk_pair(head, teacher, columns, gradients, accumulate,
                    [&](const LogitChunk& chunk, const LogitChunk& taught) { launch_rows(head.kernel, kernel, chunk, taught, a); });
  });
}

void linear_top_divergence(Out divergence, Out nll, Out correct, MaybeOut dhidden, MaybeInOut dweight, MaybeInOut dbias, In hidden, In weight, MaybeIn bias,
                           In id, In logprob, In labels, int64_t vocabulary, double beta, double temperature, double soft_scale, double hard_scale,
                           bool renormalise, bool accumulate, bool half) {
  const LinearHead head = {"linear_top_divergence", hidden, weight, bias, labels, 0, half};
  const HeadGradients gradients = {dhidden, dweight, dbias};
  const char* kernel = head.kernel;
  const DivergenceArguments a = arguments_of(head, {divergence, nll, correct}, beta, temperature, soft_scale, hard_scale);
  const int k = static_cast<int>(id.shape[1]);
  with_variant(beta, gradients.wanted(), half, [&](auto side, auto type) {
    const auto row_kernel = linear_top_divergence_kernel<decltype(type), decltype(side)::side>;
    each_chunk(head, vocabulary, gradients, accumulate, [&](const LogitChunk& chunk) {
      const TopArguments top = {id.as<const int32_t>(), logprob.as<const float>(), scratch_of<float>(chunk.rows * k), scratch_of<float>(chunk.rows), k,
                                renormalise};
      launch(take_top_kernel, {dim3(static_cast<unsigned>(chunk.rows)), dim3(k < 256 ? static_cast<unsigned>(ceil_div(k, 32) * 32) : 256), 0, kernel}, chunk,
             a, top);
      launch_rows(kernel, row_kernel, chunk, a, top);
    });
  });
}

}  // namespace anneal::cuda
