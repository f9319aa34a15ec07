// Rotary position embedding. y may be x. Entries past the rotated ones are copied. Pairs are halves apart (Llama) or
// adjacent (GPT-J).
#include "isa.h"
#include "simd.h"

namespace anneal::cpu::ANNEAL_ISA {

namespace {

constexpr int64_t elements_per_task = 8192;

template <class T>
ANNEAL_INLINE void rotate_halves(T* y, const T* x, const float* cosine, const float* sine, int64_t half,
                                 float direction) {
  each_vector(half, [&](int64_t i, auto span) {
    vf c = load(cosine + i, span), s = load(sine + i, span) * direction;
    vf a = load(x + i, span), b = load(x + half + i, span);
    store(y + i, a * c - b * s, span);
    store(y + half + i, b * c + a * s, span);
  });
}

// Adjacent pairs: an entry needs its neighbour, its pair's cosine, and the sine with a minus for the even entries.
// These angles are spread out once per token and block of entries, for all heads.
constexpr int64_t spread_block = 512;
struct SpreadAngles { float cosine[spread_block], sine[spread_block]; };
ANNEAL_INLINE void spread(SpreadAngles& to, const float* cosine, const float* sine, int64_t pairs, float direction) {
  for (int64_t i = 0; i < pairs; ++i) {
    to.cosine[2 * i] = to.cosine[2 * i + 1] = cosine[i];
    to.sine[2 * i + 1] = sine[i] * direction;
    to.sine[2 * i] = -to.sine[2 * i + 1];
  }
}
template <class T> ANNEAL_INLINE void rotate_neighbours(T* y, const T* x, const SpreadAngles& angles, int64_t entries) {
  each_vector(entries, [&](int64_t i, auto span) {
    vf v = load(x + i, span), swapped = __builtin_shuffle(v, lane_numbers() ^ 1);
    store(y + i, v * load(angles.cosine + i, span) + swapped * load(angles.sine + i, span), span);
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
      const T* from = x + t * per_token;
      T* to = y + t * per_token;
      if constexpr (interleaved) {
        SpreadAngles angles;
        for (int64_t pair = 0; pair < call.half; pair += spread_block / 2) {
          const int64_t pairs = call.half - pair < spread_block / 2 ? call.half - pair : spread_block / 2;
          spread(angles, cosine + pair, sine + pair, pairs, call.direction);
          for (int64_t at = 2 * pair; at < per_token; at += call.head_dim)
            rotate_neighbours(to + at, from + at, angles, 2 * pairs);
        }
      } else {
        for (int64_t at = 0; at < per_token; at += call.head_dim)
          rotate_halves(to + at, from + at, cosine, sine, call.half, call.direction);
      }
      if (rest > 0 && to != from)
        for (int64_t at = 2 * call.half; at < per_token; at += call.head_dim)
          memcpy(to + at, from + at, static_cast<size_t>(rest) * sizeof(T));
    }
  });
}

}  // namespace

void rope(Out y, In x, In cos, In sin, In position, bool interleaved, bool inverse) {
  const int32_t* positions = position.as<const int32_t>();
  for (int64_t t = 0; t < position.size; ++t)
    ANNEAL_CHECK(positions[t] >= 0 && positions[t] < cos.dim(0),
                 "rope: position[%lld] is %d, but cos and sin hold %lld positions", static_cast<long long>(t),
                 positions[t], static_cast<long long>(cos.dim(0)));
  const Call call = {x.dim(0),
                     x.dim(1),
                     x.dim(2),
                     cos.dim(1),
                     cos.as<const float>(),
                     sin.as<const float>(),
                     positions,
                     inverse ? -1.f : 1.f};
  auto run = [&](auto* to, auto* from) {
    if (interleaved) rotate<true>(to, from, call);
    else rotate<false>(to, from, call);
  };
  if (x.dtype == DType::f32) run(y.as<float>(), x.as<const float>());
  else run(y.as<bf16>(), x.as<const bf16>());
}

void rope_pair(Out y, Out other_y, In x, In other_x, In cos, In sin, In position, bool interleaved, bool inverse) {
  rope(y, x, cos, sin, position, interleaved, inverse);
  rope(other_y, other_x, cos, sin, position, interleaved, inverse);
}

}  // namespace anneal::cpu::ANNEAL_ISA
