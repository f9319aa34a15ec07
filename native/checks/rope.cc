// What the rotary position embedding demands of its arguments.
#include "../checks.h"
#include "shape.h"

namespace anneal::checks {
namespace {

void check_turned(const char* kernel, const char* y_name, const Tensor& y, const char* x_name, const Tensor& x) {
  ANNEAL_CHECK(is_float(x.dtype), "%s: %s must be f32 or bf16, but is %s", kernel, x_name, name_of(x.dtype));
  ANNEAL_CHECK(x.rank == 3, "%s: %s must have shape [tokens, heads, head_dim], but has %s", kernel, x_name,
               ShapeText(x).text);
  check_dtype(kernel, y_name, y, x.dtype);
  check_same_shape(kernel, x_name, x, y);
}
void check_angles(const char* kernel, const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& position) {
  check_dtype(kernel, "cos", cos, DType::f32);
  check_dtype(kernel, "sin", sin, DType::f32);
  check_dtype(kernel, "position", position, DType::i32);
  ANNEAL_CHECK(cos.rank == 2 && 2 * cos.dim(1) <= x.dim(2),
               "%s: cos must have shape [positions, rotated / 2] with at most %lld columns, but has %s", kernel,
               static_cast<long long>(x.dim(2) / 2), ShapeText(cos).text);
  ANNEAL_CHECK(same_shape(cos, sin), "%s: sin must have the shape of cos, %s, but has %s", kernel, ShapeText(cos).text,
               ShapeText(sin).text);
  ANNEAL_CHECK(position.size == x.dim(0), "%s: position must have %lld elements, one per token, but has %s", kernel,
               static_cast<long long>(x.dim(0)), ShapeText(position).text);
}

}  // namespace

void rope(Out y, In x, In cos, In sin, In position, bool, bool) {
  check_turned("rope", "y", y, "x", x);
  check_angles("rope", x, cos, sin, position);
}

void rope_pair(Out y, Out other_y, In x, In other_x, In cos, In sin, In position, bool, bool) {
  check_dtype("rope_pair", "other_x", other_x, x.dtype);
  ANNEAL_CHECK(x.rank == 3 && other_x.rank == 3 && other_x.dim(2) == x.dim(2),
               "rope_pair: x and other_x must have shape [tokens, heads, head_dim] with one head_dim, but have %s and %s",
               ShapeText(x).text, ShapeText(other_x).text);
  ANNEAL_CHECK(other_x.dim(0) == x.dim(0), "rope_pair: other_x must have the tokens of x, %lld, but has %lld",
               static_cast<long long>(x.dim(0)), static_cast<long long>(other_x.dim(0)));
  check_turned("rope_pair", "y", y, "x", x);
  check_turned("rope_pair", "other_y", other_y, "other_x", other_x);
  check_angles("rope_pair", x, cos, sin, position);
}

}  // namespace anneal::checks
