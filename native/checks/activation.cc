// Arguments of activations and gated activations.
#include "../checks.h"
#include "../operations.h"
#include "shape.h"

namespace anneal::checks {
namespace {

// The tensor that the others are like.
struct Model {
  const char* kernel;
  const char* name;
  const Tensor& tensor;

  Model(const char* kernel, const char* name, const Tensor& tensor, int64_t activation) : kernel(kernel), name(name), tensor(tensor) {
    ANNEAL_CHECK(is_float(tensor.dtype), "%s: %s must be f32 or bf16, but is %s", kernel, name, name_of(tensor.dtype));
    check_activation(kernel, activation);
  }
  const Model& like(const char* other_name, const Tensor& other) const {
    check_dtype(kernel, other_name, other, tensor.dtype);
    ANNEAL_CHECK(same_shape(other, tensor), "%s: %s must have the shape of %s, %s, but has %s", kernel, other_name, name, ShapeText(tensor).text,
                 ShapeText(other).text);
    return *this;
  }
};

}  // namespace

void activation(Out y, In x, int64_t activation) { Model("activation", "x", x, activation).like("y", y); }

void activation_backward(Out dx, In dy, In x, int64_t activation) { Model("activation_backward", "x", x, activation).like("dx", dx).like("dy", dy); }

void gated_activation(Out y, In gate, In up, int64_t activation) { Model("gated_activation", "gate", gate, activation).like("y", y).like("up", up); }

void gated_activation_backward(Out dgate, Out dup, In dy, In gate, In up, int64_t activation) {
  Model("gated_activation_backward", "gate", gate, activation).like("dgate", dgate).like("dup", dup).like("dy", dy).like("up", up);
}

}  // namespace anneal::checks
