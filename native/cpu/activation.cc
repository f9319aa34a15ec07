// Activations and gated activations (SwiGLU, GeGLU) with their backwards, which recompute the activation from the saved
// inputs: exponentials are cheaper than memory. Outputs may be any of the inputs.
#include "activation.h"

#include "isa.h"

namespace anneal::cpu::ANNEAL_ISA {

namespace {

constexpr int64_t elements_per_task = 8192;

// body(base, n) over contiguous pieces of the tensor.
template <class F> void parallel_pieces(int64_t size, F&& body) {
  parallel_for((size + lanes - 1) / lanes, elements_per_task / lanes, [&](int64_t begin, int64_t end) {
    int64_t last = end * lanes < size ? end * lanes : size;
    body(begin * lanes, last - begin * lanes);
  });
}

template <class T> struct Arguments {
  T *out, *second_out;
  const T *dy, *x, *up;
  int64_t size;
};

template <Activation kind, class T> void forward(const Arguments<T>& a) {
  parallel_pieces(a.size, [&](int64_t base, int64_t n) {
    T* y = a.out + base;
    const T* x = a.x + base;
    each_vector(n, [&](int64_t i, auto span) { store(y + i, activate<kind>(load(x + i, span)), span); });
  });
}
template <Activation kind, class T> void backward(const Arguments<T>& a) {
  parallel_pieces(a.size, [&](int64_t base, int64_t n) {
    T* dx = a.out + base;
    const T *x = a.x + base, *dy = a.dy + base;
    each_vector(n, [&](int64_t i, auto span) {
      store(dx + i, load(dy + i, span) * activate_with_slope<kind>(load(x + i, span)).slope, span);
    });
  });
}
template <Activation kind, class T> void gated_forward(const Arguments<T>& a) {
  parallel_pieces(a.size, [&](int64_t base, int64_t n) {
    T* y = a.out + base;
    const T *gate = a.x + base, *up = a.up + base;
    each_vector(n, [&](int64_t i, auto span) {
      store(y + i, activate<kind>(load(gate + i, span)) * load(up + i, span), span);
    });
  });
}
template <Activation kind, class T> void gated_backward(const Arguments<T>& a) {
  parallel_pieces(a.size, [&](int64_t base, int64_t n) {
    T *dgate = a.out + base, *dup = a.second_out + base;
    const T *gate = a.x + base, *up = a.up + base, *dy = a.dy + base;
    each_vector(n, [&](int64_t i, auto span) {
      vf d = load(dy + i, span), u = load(up + i, span);
      ValueAndSlope activated = activate_with_slope<kind>(load(gate + i, span));
      store(dgate + i, d * u * activated.slope, span);
      store(dup + i, d * activated.value, span);
    });
  });
}

enum class Direction { forward, backward, gated_forward, gated_backward };

template <Direction direction, class T> void apply(const Arguments<T>& a, int64_t activation) {
  with_activation(activation, [&](auto kind) {
    if constexpr (direction == Direction::forward) forward<kind.value>(a);
    else if constexpr (direction == Direction::backward) backward<kind.value>(a);
    else if constexpr (direction == Direction::gated_forward) gated_forward<kind.value>(a);
    else gated_backward<kind.value>(a);
  });
}

template <Direction direction>
void run(Tensor* out, Tensor* second_out, const Tensor* dy, const Tensor& x, const Tensor* up, int64_t activation) {
  auto with = [&]<class T>(T* out_data) {
    auto data = [](const Tensor* tensor) { return tensor ? tensor->as<T>() : nullptr; };
    apply<direction>(Arguments<T>{out_data, data(second_out), data(dy), x.as<T>(), data(up), x.size}, activation);
  };
  if (x.dtype == DType::f32) with(out->as<float>());
  else with(out->as<bf16>());
}

}  // namespace

void activation(Out y, In x, int64_t activation) { run<Direction::forward>(&y, nullptr, nullptr, x, nullptr, activation); }

void activation_backward(Out dx, In dy, In x, int64_t activation) {
  run<Direction::backward>(&dx, nullptr, &dy, x, nullptr, activation);
}

void gated_activation(Out y, In gate, In up, int64_t activation) {
  run<Direction::gated_forward>(&y, nullptr, nullptr, gate, &up, activation);
}

void gated_activation_backward(Out dgate, Out dup, In dy, In gate, In up, int64_t activation) {
  run<Direction::gated_backward>(&dgate, &dup, &dy, gate, &up, activation);
}

}  // namespace anneal::cpu::ANNEAL_ISA
