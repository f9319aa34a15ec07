// Rotary position embedding. y may be x. Entries past the rotated ones are copied. Pairs are halves apart (Llama) or adjacent (GPT-J).
#include "isa.h"
#include "shape.h"
#include "simd.h"

namespace anneal::cpu::ANNEAL_ISA {

namespace {

constexpr int64_t elements_per_task = 8192;

template <class T> ANNEAL_INLINE void rotate_halves(T* y, const T* x, const float* cosine, const float* sine, int64_t half, float direction) {
  each_vector(half, [&](int64_t i, auto span) {
    vf c = load(cosine + i, span), s = load(sine + i, span) * direction;
    vf a = load(x + i, span), b = load(x + half + i, span);
    store(y + i, a * c - b * s, span);
    store(y + half + i, b * c + a * s, span);
  });
}

// The lanes 2i and 2i + 1 are a pair: each entry needs its neighbour and its pair's angle twice.
ANNEAL_INLINE vf swap_neighbours(vf v) { return __builtin_shuffle(v, lane_numbers() ^ 1); }
ANNEAL_INLINE vf repeat_twice(const float* p, int64_t n) {
  vf v = {};
  for (int i = 0; i < lanes / 2; ++i) v[2 * i] = v[2 * i + 1] = i < n ? p[i] : 0.f;
  return v;
}
template <class T> ANNEAL_INLINE void rotate_neighbours(T* y, const T* x, const float* cosine, const float* sine, int64_t half, float direction) {
  const vf sign = __builtin_convertvector((lane_numbers() & 1) * 2 - 1, vf) * direction;  // the even entry gets -sin
  each_vector(2 * half, [&](int64_t i, auto span) {
    vf c = repeat_twice(cosine + i / 2, half - i / 2), s = repeat_twice(sine + i / 2, half - i / 2) * sign;
    vf v = load(x + i, span);
    store(y + i, v * c + swap_neighbours(v) * s, span);
  });
}

struct Call {
  int64_t tokens, heads, head_dim, half;
  const float *cosine, *sine;
  const int32_t* position;
  float direction;
};

template <bool interleaved, class T> void rotate(T* y, const T* x, const Call& call) {
  const int64_t per_token = call.heads * call.head_dim, rest = call.head_dim - 2 * call.half;
  const int64_t grain = elements_per_task / (per_token > 0 ? per_token : 1) + 1;
  parallel_for(call.tokens, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cosine = call.cosine + call.position[t] * call.half;
      const float* sine = call.sine + call.position[t] * call.half;
      for (int64_t head = 0; head < call.heads; ++head) {
        const T* from = x + t * per_token + head * call.head_dim;
        T* to = y + t * per_token + head * call.head_dim;
        if constexpr (interleaved) rotate_neighbours(to, from, cosine, sine, call.half, call.direction);
        else rotate_halves(to, from, cosine, sine, call.half, call.direction);
        if (rest > 0 && to != from) memcpy(to + 2 * call.half, from + 2 * call.half, static_cast<size_t>(rest) * sizeof(T));
      }
    }
  });
}

}  // namespace

void rope(Out y, In x, In cos, In sin, In position, bool interleaved, bool inverse) {
  ANNEAL_CHECK(is_float(x.dtype), "rope: x must be f32 or bf16, but is %s", name_of(x.dtype));
  ANNEAL_CHECK(x.rank == 3, "rope: x must have shape [tokens, heads, head_dim], but has %s", ShapeText(x).text);
  check_dtype("rope", "y", y, x.dtype);
  check_same_shape("rope", "x", x, y);
  check_dtype("rope", "cos", cos, DType::f32);
  check_dtype("rope", "sin", sin, DType::f32);
  check_dtype("rope", "position", position, DType::i32);
  ANNEAL_CHECK(cos.rank == 2 && 2 * cos.dim(1) <= x.dim(2), "rope: cos must have shape [positions, rotated / 2] with at most %lld columns, but has %s",
               static_cast<long long>(x.dim(2) / 2), ShapeText(cos).text);
  ANNEAL_CHECK(same_shape(cos, sin), "rope: sin must have the shape of cos, %s, but has %s", ShapeText(cos).text, ShapeText(sin).text);
  ANNEAL_CHECK(position.size == x.dim(0), "rope: position must have %lld elements, one per token, but has %s", static_cast<long long>(x.dim(0)),
               ShapeText(position).text);
  const int32_t* positions = position.as<const int32_t>();
  for (int64_t t = 0; t < position.size; ++t)
    ANNEAL_CHECK(positions[t] >= 0 && positions[t] < cos.dim(0), "rope: position[%lld] is %d, but cos and sin hold %lld positions",
                 static_cast<long long>(t), positions[t], static_cast<long long>(cos.dim(0)));
  const Call call = {x.dim(0), x.dim(1), x.dim(2), cos.dim(1), cos.as<const float>(), sin.as<const float>(), positions, inverse ? -1.f : 1.f};
  auto run = [&](auto* to, auto* from) {
    if (interleaved) rotate<true>(to, from, call);
    else rotate<false>(to, from, call);
  };
  if (x.dtype == DType::f32) run(y.as<float>(), x.as<const float>());
  else run(y.as<bf16>(), x.as<const bf16>());
}

}  // namespace anneal::cpu::ANNEAL_ISA
