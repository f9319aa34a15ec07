// Rotary position embedding. y may be x. Entries past the rotated ones are copied. A thread keeps the cosines and sines of its place in a head in
// registers and turns that place in several heads of one token, 16 bytes at a time where rows allow it.
#include "../kernels.h"
#include "../shape.h"
#include "fault.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int rope_most_threads = 256, rope_heads_per_thread = 4;

struct RopeArguments {
  int64_t heads, head_dim, half, positions;
  const float *cosine, *sine;
  const int32_t* position;
  float direction;
  int rotating, places;  // pieces of a head that turn, and all pieces, of `length` numbers (halves: of `length` pairs where they turn)
  Fault* fault;
};

template <class T, int length> ANNEAL_DEVICE void load_piece(float (&v)[length], const T* p) {
  if constexpr (length == vector_length<T>) load_vector(v, p);
  else
#pragma unroll
    for (int i = 0; i < length; ++i) v[i] = to_float(p[i]);
}
template <class T, int length> ANNEAL_DEVICE void store_piece(T* p, const float (&v)[length]) {
  if constexpr (length == vector_length<T>) store_vector(p, v);
  else
#pragma unroll
    for (int i = 0; i < length; ++i) p[i] = from_float<T>(v[i]);
}
template <bool aligned, int count> ANNEAL_DEVICE void load_angles(float (&v)[count], const float* p) {
  if constexpr (aligned && count % 4 == 0) {
#pragma unroll
    for (int i = 0; i < count; i += 4) {
      float part[4];
      load_vector(part, p + i);
#pragma unroll
      for (int k = 0; k < 4; ++k) v[i + k] = part[k];
    }
  } else {
#pragma unroll
    for (int i = 0; i < count; ++i) v[i] = p[i];
  }
}

// One block per token. length: numbers of a piece, vector_length<T> where all rows are aligned, else 1, or 2 where interleaved.
template <class T, bool interleaved, int length> __global__ void __launch_bounds__(rope_most_threads) rope_kernel(T* y, const T* x, RopeArguments a) {
  constexpr bool aligned = length == vector_length<T>;
  constexpr int angles = interleaved ? length / 2 : length;
  const int64_t token = blockIdx.x;
  const int position = a.position[token];
  if (position < 0 || position >= a.positions) {
    if (threadIdx.x == 0) report(a.fault, FaultSite::rope_position, token, position, a.positions);
    return;
  }
  const int threads = blockDim.x;
  const int across = a.places < threads ? a.places : threads, group = threadIdx.x / across, groups = threads / across;
  if (group >= groups) return;
  x += token * a.heads * a.head_dim;
  y += token * a.heads * a.head_dim;
  for (int place = threadIdx.x - group * across; place < a.places; place += across) {
    if (place >= a.rotating) {
      if (y == x) break;
      const int64_t at = 2 * a.half + int64_t{place - a.rotating} * length;
      for (int64_t head = group; head < a.heads; head += groups) {
        float v[length];
        load_piece(v, x + head * a.head_dim + at);
        store_piece(y + head * a.head_dim + at, v);
      }
      continue;
    }
    float cosine[angles], sine[angles];
    load_angles<aligned>(cosine, a.cosine + position * a.half + place * angles);
    load_angles<aligned>(sine, a.sine + position * a.half + place * angles);
#pragma unroll
    for (int i = 0; i < angles; ++i) sine[i] *= a.direction;
    // Written as explicit multiply-adds so that every instance rounds alike.
    for (int64_t head = group; head < a.heads; head += groups) {
      const int64_t at = head * a.head_dim + int64_t{place} * length;
      if constexpr (interleaved) {
        float v[length];
        load_piece(v, x + at);
#pragma unroll
        for (int i = 0; i < angles; ++i) {
          const float first = v[2 * i], second = v[2 * i + 1];
          v[2 * i] = fmaf(first, cosine[i], -(second * sine[i]));
          v[2 * i + 1] = fmaf(second, cosine[i], first * sine[i]);
        }
        store_piece(y + at, v);
      } else {
        float low[length], high[length];
        load_piece(low, x + at);
        load_piece(high, x + at + a.half);
#pragma unroll
        for (int i = 0; i < angles; ++i) {
          const float first = low[i], second = high[i];
          low[i] = fmaf(first, cosine[i], -(second * sine[i]));
          high[i] = fmaf(second, cosine[i], first * sine[i]);
        }
        store_piece(y + at, low);
        store_piece(y + at + a.half, high);
      }
    }
  }
}

namespace {

template <class T, bool interleaved, int length> void run_rope(T* y, const T* x, int64_t tokens, RopeArguments a) {
  const int64_t turned = interleaved ? 2 * a.half : a.half;
  a.rotating = static_cast<int>(turned / length);
  a.places = a.rotating + static_cast<int>((a.head_dim - 2 * a.half) / length);
  int64_t threads = ceil_div(a.places * a.heads, rope_heads_per_thread);
  if (threads < a.places) threads = a.places;
  threads = threads > rope_most_threads ? rope_most_threads : ceil_div(threads, 32) * 32;
  launch(rope_kernel<T, interleaved, length>, {dim3(static_cast<unsigned>(tokens)), dim3(static_cast<unsigned>(threads)), 0, "rope"}, y, x, a);
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
  if (x.size == 0) return;
  const RopeArguments a = {x.dim(1), x.dim(2), cos.dim(1), cos.dim(0), cos.as<const float>(), sin.as<const float>(),
                           position.as<const int32_t>(), inverse ? -1.f : 1.f, 0, 0, fault()};
  dispatch_float("rope", x.dtype, [&](auto number) {
    using T = decltype(number);
    constexpr int length = vector_length<T>;
    auto on_16_bytes = [](const Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0; };
    const bool aligned = a.head_dim % length == 0 && (interleaved ? 2 * a.half : a.half) % length == 0 && a.half % 4 == 0 && on_16_bytes(y) && on_16_bytes(x) &&
                         on_16_bytes(cos) && on_16_bytes(sin);
    T *to = y.as<T>(), *from = x.as<T>();
    if (interleaved && aligned) run_rope<T, true, length>(to, from, x.dim(0), a);
    else if (interleaved) run_rope<T, true, 2>(to, from, x.dim(0), a);
    else if (aligned) run_rope<T, false, length>(to, from, x.dim(0), a);
    else run_rope<T, false, 1>(to, from, x.dim(0), a);
  });
}

}  // namespace anneal::cuda
