// What RMSNorm and LayerNorm and their backwards demand of their arguments.
#include "../checks.h"
#include "shape.h"

namespace anneal::checks {
namespace {

void check_x(const char* kernel, const Tensor& x) {
  ANNEAL_CHECK(is_float(x.dtype), "%s: x must be f32 or bf16, but is %s", kernel, name_of(x.dtype));
  ANNEAL_CHECK(x.rank >= 1, "%s: x must have at least one axis", kernel);
}
void check_like_x(const char* kernel, const char* name, const Tensor* tensor, const Tensor& x) {
  if (!tensor) return;
  check_dtype(kernel, name, *tensor, x.dtype);
  ANNEAL_CHECK(same_shape(*tensor, x), "%s: %s must have the shape of x, %s, but has %s", kernel, name,
               ShapeText(x).text, ShapeText(*tensor).text);
}
void check_per_column(const char* kernel, const char* name, const Tensor* tensor, const Tensor& x) {
  if (!tensor) return;
  ANNEAL_CHECK(is_float(tensor->dtype), "%s: %s must be f32 or bf16, but is %s", kernel, name, name_of(tensor->dtype));
  ANNEAL_CHECK(tensor->rank == 1 && tensor->size == x.columns(),
               "%s: %s must have shape [%lld], the last axis of x, but has %s", kernel, name,
               static_cast<long long>(x.columns()), ShapeText(*tensor).text);
}
void check_per_row(const char* kernel, const char* name, const Tensor* tensor, const Tensor& x) {
  if (!tensor) return;
  check_dtype(kernel, name, *tensor, DType::f32);
  ANNEAL_CHECK(tensor->size == x.rows(), "%s: %s must have %lld elements, one per row of x, but has %s", kernel, name,
               static_cast<long long>(x.rows()), ShapeText(*tensor).text);
}
// Gradients of weights are summed in f32 whatever the weights are.
void check_sums(const char* kernel, const char* name, const Tensor* tensor, const Tensor& x) {
  check_per_column(kernel, name, tensor, x);
  if (tensor) check_dtype(kernel, name, *tensor, DType::f32);
}

void check_forward(const char* kernel, const Tensor& y, const Tensor* mean, const Tensor& rstd, const Tensor* sum,
                   const Tensor& x, const Tensor* residual, const Tensor& weight, const Tensor* bias) {
  check_x(kernel, x);
  check_like_x(kernel, "y", &y, x);
  check_like_x(kernel, "sum", sum, x);
  check_like_x(kernel, "residual", residual, x);
  ANNEAL_CHECK(!residual || sum, "%s: sum is required where residual is given", kernel);
  check_per_column(kernel, "weight", &weight, x);
  check_per_column(kernel, "bias", bias, x);
  check_per_row(kernel, "mean", mean, x);
  check_per_row(kernel, "rstd", &rstd, x);
}
void check_backward(const char* kernel, const Tensor& dx, const Tensor* dweight, const Tensor* dbias, const Tensor& dy,
                    const Tensor* dsum, const Tensor& x, const Tensor& weight, const Tensor* mean, const Tensor& rstd) {
  check_x(kernel, x);
  check_like_x(kernel, "dx", &dx, x);
  check_like_x(kernel, "dy", &dy, x);
  check_like_x(kernel, "dsum", dsum, x);
  check_per_column(kernel, "weight", &weight, x);
  check_sums(kernel, "dweight", dweight, x);
  check_sums(kernel, "dbias", dbias, x);
  check_per_row(kernel, "mean", mean, x);
  check_per_row(kernel, "rstd", &rstd, x);
}

}  // namespace

void rms_norm(Out y, Out rstd, MaybeOut sum, In x, MaybeIn residual, In weight, double, double) {
  check_forward("rms_norm", y, nullptr, rstd, sum, x, residual, weight, nullptr);
}
void rms_norm_backward(Out dx, MaybeInOut dweight, In dy, MaybeIn dsum, In x, In weight, In rstd, double, bool) {
  check_backward("rms_norm_backward", dx, dweight, nullptr, dy, dsum, x, weight, nullptr, rstd);
}
void layer_norm(Out y, Out mean, Out rstd, MaybeOut sum, In x, MaybeIn residual, In weight, MaybeIn bias, double) {
  check_forward("layer_norm", y, &mean, rstd, sum, x, residual, weight, bias);
}
void layer_norm_backward(Out dx, MaybeInOut dweight, MaybeInOut dbias, In dy, MaybeIn dsum, In x, In weight, In mean,
                         In rstd, bool) {
  check_backward("layer_norm_backward", dx, dweight, dbias, dy, dsum, x, weight, &mean, rstd);
}

}  // namespace anneal::checks
