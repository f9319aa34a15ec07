// The divergence of a student from a teacher, both given by hidden states and output layer, or the teacher by its most
// probable tokens: loss and gradient without logits of all tokens. The logits of both sides of a chunk exist at a time,
// in less than 64 MiB together.
#include "divergence.h"

#include <initializer_list>

#include "loss_linear.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

// Student's and teacher's logits of a chunk.
constexpr int64_t pair_bytes = 60 << 20;

static int64_t pair_rows(int64_t rows, int64_t student, int64_t teacher) {
  const int64_t most = pair_bytes / ((student + teacher) * 4) / 8 * 8;
  return even_chunks(rows, most < 8 ? 8 : most);
}

struct DivergenceOutputs { Tensor &divergence, &nll, &correct; };

static void clear(const DivergenceOutputs& out) {
  for (Tensor* y : {&out.divergence, &out.nll, &out.correct}) memset(y->data, 0, static_cast<size_t>(y->bytes()));
}

static DivergenceScales scales_of(double temperature, double soft_scale, double hard_scale) {
  return {static_cast<float>(1 / temperature), static_cast<float>(soft_scale / temperature),
          static_cast<float>(hard_scale)};
}

// A student of fewer tokens: the rows that both have.
static LinearHead first_rows(const LinearHead& head, Tensor& weight, Tensor& bias, int64_t vocabulary) {
  weight = matrix(head.weight.data, head.weight.dtype, vocabulary, head.width());
  if (head.bias) bias = {head.bias->data, vocabulary, {vocabulary}, head.bias->dtype, 1};
  return {head.hidden, weight, head.bias ? &bias : nullptr, head.labels, 0, head.half};
}

// The same of the gradients; the rows that remain get none.
struct FirstGradients {
  Tensor weight, bias;
  HeadGradients gradients;
  FirstGradients(const HeadGradients& all, int64_t vocabulary, bool accumulate) : gradients(all) {
    auto shorten = [&](Tensor* whole, Tensor& part) -> Tensor* {
      if (!whole) return nullptr;
      const int64_t row = whole->rank == 2 ? whole->shape[1] : 1, count = vocabulary * row;
      if (!accumulate)
        memset(whole->as<float>() + count, 0, static_cast<size_t>((whole->size - count) * 4));
      part = *whole;
      part.shape[0] = vocabulary;
      part.size = count;
      return &part;
    };
    gradients.weight = shorten(all.weight, weight);
    gradients.bias = shorten(all.bias, bias);
  }
};

// nll and argmax of a row of logits, whose log-sum at temperature 1 is `all`.
static void write_hard(const DivergenceOutputs& out, int64_t token, const float* row, int32_t label,
                       const LogSum& all) {
  bool largest = row[label] == all.max;
  for (int32_t j = 0; largest && j < label; ++j) largest = row[j] != all.max;
  out.nll.as<float>()[token] = all.log() - row[label];
  out.correct.as<float>()[token] = largest ? 1 : 0;
}

// The row becomes its gradient but for what the label takes off.
template <Side side>
static void write_gradient(float* row, const float* teacher, int64_t n, float lse, float teacher_lse, float hard_lse,
                           const Mixture& mix, const DivergenceSums& sums, const DivergenceScales& by) {
  auto step = [&](vf a, vf b) {
    const vf s = log_probability(a, by.scale, lse), t = log_probability(b, by.scale, teacher_lse);
    vf gradient = divergence_gradient<side>(s, t, mix, sums) * by.soft;
    if (by.hard != 0) gradient += exp_low(a - hard_lse) * by.hard;
    return gradient;
  };
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes) store(row + j, step(load(row + j), load(teacher + j)));
  if (j < n) store_part(row + j, step(load_part(row + j, n - j), load_part(teacher + j, n - j)), n - j);
}

// --- Recorded distributions ---

// The most probable tokens of a row and, behind them, all others as one: log-probabilities of both sides.
struct TopEntries {
  int64_t count;
  const int32_t* id;
  const float *teacher, *logits;  // the student's logits of the ids
  float scale, lse, shift;
  bool has_tail;
  float tail_student, tail_teacher;
  float student_at(int64_t i) const { return i < count ? fmaxf(lowest_log, logits[i] * scale - lse) : tail_student; }
  float teacher_at(int64_t i) const {
    return i < count ? fmaxf(lowest_log, teacher[i] - shift) : tail_teacher;
  }
  int64_t entries() const { return count + has_tail; }
};

template <Side side> static DivergenceSums top_divergence(const TopEntries& top, const Mixture& mix) {
  DivergenceSums sums;
  for (int64_t i = 0; i < top.entries(); ++i) {
    const DivergenceTerms terms = divergence_terms<side>(splat(top.student_at(i)), splat(top.teacher_at(i)), mix);
    sums.teacher += static_cast<double>(terms.teacher[0]);
    sums.student += static_cast<double>(terms.student[0]);
  }
  return sums;
}

// As write_gradient; the logits of the ids are -infinity in the row. A token of the tail has its share of the tail's
// gradient: its probability among the tail's.
template <Side side>
static void write_top_gradient(float* row, int64_t n, const TopEntries& top, float tail_lse, float hard_lse,
                               const Mixture& mix, const DivergenceSums& sums, const DivergenceScales& by) {
  auto entry = [&](int64_t i) {
    return divergence_gradient<side>(splat(top.student_at(i)), splat(top.teacher_at(i)), mix, sums)[0] * by.soft;
  };
  const float tail = top.has_tail ? entry(top.count) : 0, shared = top.has_tail ? tail_lse : 0;
  auto step = [&](vf logit) {
    vf gradient = exp_low(logit * by.scale - shared) * tail;
    if (by.hard != 0) gradient += exp_low(logit - hard_lse) * by.hard;
    return gradient;
  };
  int64_t j = 0;
  for (; j + lanes <= n; j += lanes) store(row + j, step(load(row + j)));
  if (j < n) store_part(row + j, step(load_part(row + j, n - j)), n - j);
  for (int64_t i = 0; i < top.count; ++i)
    row[top.id[i]] = entry(i) + (by.hard != 0 ? exp_low(splat(top.logits[i] - hard_lse))[0] * by.hard : 0);
}

// log of the probability that is left to the other tokens: at least this, so that a reverse KL stays finite.
constexpr float least_tail = 0x1p-23f;

}  // namespace

void linear_divergence(Tensor& divergence, Tensor& nll, Tensor& correct, Tensor* dhidden, Tensor* dweight,
                       Tensor* dbias, const Tensor& hidden, const Tensor& weight, const Tensor* bias,
                       const Tensor& teacher_hidden, const Tensor& teacher_weight, const Tensor* teacher_bias,
                       const Tensor& labels, double beta, double temperature, double soft_scale, double hard_scale,
                       bool accumulate, bool half, bool teacher_half) {
  const LinearHead whole = {hidden, weight, bias, labels, 0, half};
  const LinearHead whole_teacher = {teacher_hidden, teacher_weight, teacher_bias, labels, 0, teacher_half};
  const HeadGradients all = {dhidden, dweight, dbias};
  const DivergenceOutputs out = {divergence, nll, correct};
  const int64_t vocabulary =
      whole.vocabulary() < whole_teacher.vocabulary() ? whole.vocabulary() : whole_teacher.vocabulary();
  check_labels("linear_divergence", "labels", labels, vocabulary);
  clear(out);
  Tensor parts[4];
  const LinearHead head = first_rows(whole, parts[0], parts[1], vocabulary);
  const LinearHead teacher = first_rows(whole_teacher, parts[2], parts[3], vocabulary);
  const FirstGradients first(all, vocabulary, accumulate);
  const Mixture mix = mixture_of(beta);
  const DivergenceScales by = scales_of(temperature, soft_scale, hard_scale);
  const int64_t valid = count_labels(head), most = pair_rows(valid, vocabulary, vocabulary);
  if (valid > 0) {
    // Both are asked for before the first chunk, as asking for more moves what was there.
    pool().scratch(6, static_cast<size_t>(most * vocabulary * 4));
    pool().scratch(7, static_cast<size_t>(most * teacher.width() * bytes_of(teacher_hidden.dtype)));
  }
  each_chunk(head, first.gradients, accumulate, valid, most, [&](const Chunk& chunk) {
    float* other = static_cast<float*>(pool().scratch(6, static_cast<size_t>(most * vocabulary * 4)));
    void* memory = pool().scratch(7, static_cast<size_t>(most * teacher.width() * bytes_of(teacher_hidden.dtype)));
    Tensor taught = matrix(other, DType::f32, chunk.count, vocabulary);
    gemm(taught, nullptr, rows_at(teacher_hidden, chunk.token, chunk.count, memory), teacher.weight, teacher.bias,
         false, true, false, static_cast<int64_t>(Activation::none), teacher_half);
    parallel_for(chunk.count, grain_of(vocabulary), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* row = chunk.logits.as<float>() + i * vocabulary;
        const float* theirs = other + i * vocabulary;
        const int64_t token = chunk.token[i];
        const int32_t label = labels.as<int32_t>()[token];
        const LogSum hard = row_log_sum(row, vocabulary);
        const float lse = by.scale == 1 ? hard.log() : row_log_sum(row, vocabulary, by.scale).log();
        const float teacher_lse = row_log_sum(theirs, vocabulary, by.scale).log();
        write_hard(out, token, row, label, hard);
        with_side(mix.side, [&](auto side) {
          const DivergenceSums sums =
              row_divergence<side.value>(row, theirs, vocabulary, by.scale, lse, teacher_lse, mix);
          divergence.as<float>()[token] = sums.value(mix);
          if (!first.gradients.wanted()) return;
          write_gradient<side.value>(row, theirs, vocabulary, lse, teacher_lse, hard.log(), mix, sums, by);
          row[label] -= by.hard;
        });
      }
    });
  });
}

void linear_top_divergence(Tensor& divergence, Tensor& nll, Tensor& correct, Tensor* dhidden, Tensor* dweight,
                           Tensor* dbias, const Tensor& hidden, const Tensor& weight, const Tensor* bias,
                           const Tensor& id, const Tensor& logprob, const Tensor& labels, int64_t vocabulary,
                           double beta, double temperature, double soft_scale, double hard_scale, bool renormalise,
                           bool accumulate, bool half) {
  const LinearHead whole = {hidden, weight, bias, labels, 0, half};
  const HeadGradients all = {dhidden, dweight, dbias};
  const DivergenceOutputs out = {divergence, nll, correct};
  const int64_t k = id.shape[1];
  for (int64_t i = 0; i < id.size; ++i) {
    const int32_t one = id.as<int32_t>()[i];
    ANNEAL_CHECK(one >= 0 && one < vocabulary, "linear_top_divergence: id[%lld] is %d, outside the vocabulary of %lld",
                 static_cast<long long>(i), one, static_cast<long long>(vocabulary));
  }
  check_labels("linear_top_divergence", "labels", labels, vocabulary);
  clear(out);
  Tensor parts[2];
  const LinearHead head = first_rows(whole, parts[0], parts[1], vocabulary);
  const FirstGradients first(all, vocabulary, accumulate);
  const Mixture mix = mixture_of(beta);
  const DivergenceScales by = scales_of(temperature, soft_scale, hard_scale);
  const int64_t valid = count_labels(head), most = pair_rows(valid, vocabulary, k);
  each_chunk(head, first.gradients, accumulate, valid, most, [&](const Chunk& chunk) {
    float* kept = static_cast<float*>(pool().scratch(6, static_cast<size_t>(most * k * 4)));
    parallel_for(chunk.count, grain_of(vocabulary), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float *row = chunk.logits.as<float>() + i * vocabulary, *own = kept + i * k;
        const int64_t token = chunk.token[i];
        const int32_t label = labels.as<int32_t>()[token], *ids = id.as<int32_t>() + token * k;
        const float* taught = logprob.as<float>() + token * k;
        const LogSum hard = row_log_sum(row, vocabulary);
        write_hard(out, token, row, label, hard);
        for (int64_t j = 0; j < k; ++j) own[j] = row[ids[j]];
        for (int64_t j = 0; j < k; ++j) row[ids[j]] = -INFINITY;
        const LogSum tail = row_log_sum(row, vocabulary, by.scale);
        const float lse = fold(row_log_sum(own, k, by.scale), tail).log(), teacher_log = row_logsumexp(taught, k);
        const float left = fmaxf(1 - scalar_exp(teacher_log), least_tail);
        const TopEntries top = {k, ids, taught, own, by.scale, lse, renormalise ? teacher_log : 0, tail.sum > 0,
                                fmaxf(lowest_log, tail.log() - lse), renormalise ? lowest_log : logf(left)};
        with_side(mix.side, [&](auto side) {
          const DivergenceSums sums = top_divergence<side.value>(top, mix);
          divergence.as<float>()[token] = sums.value(mix);
          if (!first.gradients.wanted()) return;
          write_top_gradient<side.value>(row, vocabulary, top, tail.log(), hard.log(), mix, sums, by);
          row[label] -= by.hard;
        });
      }
    });
  });
}

}  // namespace anneal::cpu::ANNEAL_ISA
