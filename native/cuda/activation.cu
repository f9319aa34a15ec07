// Activations and gated activations (SwiGLU, GeGLU) with their backwards, which recompute the activation from the saved inputs: exponentials are
// cheaper than memory. Outputs may be any of the inputs. A thread takes 16 bytes of each tensor; the kind of activation is an argument, as a branch
// that all threads take alike costs nothing beside the memory.
#include "activation.h"

#include "../kernels.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int activation_threads = 256;

// y and second_y are written; the rest is read. What an operation has no use for is null.
template <class T> struct ActivationArguments {
  T *y, *second_y;
  const T *x, *up, *dy;
  int64_t size;
  Activation kind;
  bool aligned;
};

struct Activated {
  static constexpr bool has_up = false, has_dy = false, has_second = false;
  template <int n> ANNEAL_DEVICE static void apply(float (&x)[n], float (&)[n], float (&)[n], Activation kind) { activate_all(x, kind); }
};
struct ActivatedBackward {
  static constexpr bool has_up = false, has_dy = true, has_second = false;
  template <int n> ANNEAL_DEVICE static void apply(float (&x)[n], float (&)[n], float (&dy)[n], Activation kind) {
    float slope[n];
    activate_all_with_slope(x, slope, kind);
#pragma unroll
    for (int i = 0; i < n; ++i) x[i] = dy[i] * slope[i];
  }
};
struct Gated {
  static constexpr bool has_up = true, has_dy = false, has_second = false;
  template <int n> ANNEAL_DEVICE static void apply(float (&x)[n], float (&up)[n], float (&)[n], Activation kind) {
    activate_all(x, kind);
#pragma unroll
    for (int i = 0; i < n; ++i) x[i] *= up[i];
  }
};
// Leaves the gate's gradient in x and up's in up.
struct GatedBackward {
  static constexpr bool has_up = true, has_dy = true, has_second = true;
  template <int n> ANNEAL_DEVICE static void apply(float (&x)[n], float (&up)[n], float (&dy)[n], Activation kind) {
    float slope[n];
    activate_all_with_slope(x, slope, kind);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float value = x[i];
      x[i] = dy[i] * up[i] * slope[i];
      up[i] = dy[i] * value;
    }
  }
};

template <class Operation, class T> __global__ void __launch_bounds__(activation_threads) activation_kernel(ActivationArguments<T> a) {
  constexpr int length = vector_length<T>;
  const int64_t at = (int64_t{blockIdx.x} * activation_threads + threadIdx.x) * length;
  if (a.aligned && at + length <= a.size) {
    float x[length], up[length], dy[length];
    load_vector(x, a.x + at);
    if constexpr (Operation::has_up) load_vector(up, a.up + at);
    if constexpr (Operation::has_dy) load_vector(dy, a.dy + at);
    Operation::apply(x, up, dy, a.kind);
    store_vector(a.y + at, x);
    if constexpr (Operation::has_second) store_vector(a.second_y + at, up);
    return;
  }
  for (int64_t i = at; i < at + length && i < a.size; ++i) {
    float x[1] = {to_float(a.x[i])}, up[1], dy[1];
    if constexpr (Operation::has_up) up[0] = to_float(a.up[i]);
    if constexpr (Operation::has_dy) dy[0] = to_float(a.dy[i]);
    Operation::apply(x, up, dy, a.kind);
    a.y[i] = from_float<T>(x[0]);
    if constexpr (Operation::has_second) a.second_y[i] = from_float<T>(up[0]);
  }
}

namespace {

bool is_aligned(const Tensor* x) { return !x || reinterpret_cast<uintptr_t>(x->data) % 16 == 0; }

template <class Operation> void run(const char* kernel, Tensor& y, Tensor* second_y, const Tensor& x, const Tensor* up, const Tensor* dy, int64_t kind) {
  dispatch_float(kernel, x.dtype, [&](auto number) {
    using T = decltype(number);
    auto data = [](const Tensor* tensor) { return tensor ? tensor->as<T>() : nullptr; };
    const ActivationArguments<T> arguments = {y.as<T>(), data(second_y), x.as<T>(), data(up), data(dy), x.size, static_cast<Activation>(kind),
                                              is_aligned(&y) && is_aligned(second_y) && is_aligned(&x) && is_aligned(up) && is_aligned(dy)};
    const int64_t blocks = ceil_div(x.size, activation_threads * vector_length<T>);
    launch(activation_kernel<Operation, T>, {dim3(static_cast<unsigned>(blocks)), dim3(activation_threads), 0, kernel}, arguments);
  });
}

}  // namespace

void activation(Out y, In x, int64_t activation) { run<Activated>("activation", y, nullptr, x, nullptr, nullptr, activation); }

void activation_backward(Out dx, In dy, In x, int64_t activation) { run<ActivatedBackward>("activation_backward", dx, nullptr, x, nullptr, &dy, activation); }

void gated_activation(Out y, In gate, In up, int64_t activation) { run<Gated>("gated_activation", y, nullptr, gate, &up, nullptr, activation); }

void gated_activation_backward(Out dgate, Out dup, In dy, In gate, In up, int64_t activation) {
  run<GatedBackward>("gated_activation_backward", dgate, &dup, gate, &up, &dy, activation);
}

}  // namespace anneal::cuda
