// What the divergences of a student from a teacher demand.
#include "../checks.h"
#include "loss.h"

namespace anneal::checks {
namespace {

// What both take of the student.
void check_student(const Head& head, In divergence, In nll, In correct, const Tensor* dhidden, const Tensor* dweight, const Tensor* dbias, In labels, double beta,
                   double temperature) {
  check_head(head);
  check_head_gradients(head, dhidden, dweight, dbias);
  check_per_token(head.kernel, "labels", labels, head.tokens(), DType::i32);
  ANNEAL_CHECK(beta >= 0 && beta <= 1, "%s: beta must lie in [0, 1], but is %g", head.kernel, beta);
  check_temperature(head.kernel, temperature);
  check_per_token(head.kernel, "divergence", divergence, head.tokens());
  check_per_token(head.kernel, "nll", nll, head.tokens());
  check_per_token(head.kernel, "correct", correct, head.tokens());
}

}  // namespace

void linear_divergence(Out divergence, Out nll, Out correct, MaybeOut dhidden, MaybeInOut dweight, MaybeInOut dbias, In hidden, In weight, MaybeIn bias,
                       In teacher_hidden, In teacher_weight, MaybeIn teacher_bias, In labels, double beta, double temperature, double, double, bool, bool, bool) {
  check_student({"linear_divergence", hidden, weight, bias}, divergence, nll, correct, dhidden, dweight, dbias, labels, beta, temperature);
  const Head teacher = {"linear_divergence of the teacher", teacher_hidden, teacher_weight, teacher_bias};
  check_head(teacher);
  check_per_token(teacher.kernel, "labels", labels, teacher.tokens(), DType::i32);
}

void linear_top_divergence(Out divergence, Out nll, Out correct, MaybeOut dhidden, MaybeInOut dweight, MaybeInOut dbias, In hidden, In weight, MaybeIn bias,
                           In id, In logprob, In labels, int64_t vocabulary, double beta, double temperature, double, double, bool, bool, bool) {
  const Head head = {"linear_top_divergence", hidden, weight, bias};
  check_student(head, divergence, nll, correct, dhidden, dweight, dbias, labels, beta, temperature);
  const char* kernel = head.kernel;
  ANNEAL_CHECK(vocabulary > 0 && vocabulary <= head.vocabulary(), "%s: vocabulary must lie in [1, %lld], but is %lld", kernel,
               static_cast<long long>(head.vocabulary()), static_cast<long long>(vocabulary));
  check_dtype(kernel, "id", id, DType::i32);
  check_dtype(kernel, "logprob", logprob, DType::f32);
  ANNEAL_CHECK(id.rank == 2 && id.shape[0] == head.tokens() && id.shape[1] > 0 && id.shape[1] <= vocabulary,
               "%s: id must have shape [%lld, k], k from 1 to %lld, but has %s", kernel, static_cast<long long>(head.tokens()),
               static_cast<long long>(vocabulary), ShapeText(id).text);
  ANNEAL_CHECK(same_shape(id, logprob), "%s: logprob must have the shape of id, %s, but has %s", kernel, ShapeText(id).text, ShapeText(logprob).text);
}

}  // namespace anneal::checks
