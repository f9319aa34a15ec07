// Rotary position embedding. y may be x. Entries past the rotated ones are copied. A thread keeps the cosines and sines of its place in a head in
// registers and turns that place in several heads of one token, 16 bytes at a time where rows allow it. Two tensors are turned as one with the heads of both.
#include "../kernels.h"
#include "../shape.h"
#include "fault.h"
#include "launch.h"
#include "numeric.h"

namespace anneal::cuda {

constexpr int rope_most_threads = 256, rope_heads_per_thread = 4;

struct RopeArguments {
  int64_t heads, other_heads, head_dim, half, positions;
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

// x and y of each tensor; the other ones are null where there is one only.
template <class T> struct RopeTensors {
  T *y, *other_y;
  const T *x, *other_x;
};

// One block per token. length: numbers of a piece, vector_length<T> where all rows are aligned, else 1, or 2 where interleaved.
template <class T, bool interleaved, int length> __global__ void __launch_bounds__(rope_most_threads) rope_kernel(RopeTensors<T> t, RopeArguments a) {
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
  const int64_t heads = a.heads + a.other_heads;
  // A head's numbers in x and in y.
  auto from_of = [&](int64_t head) {
    return head < a.heads ? t.x + (token * a.heads + head) * a.head_dim : t.other_x + (token * a.other_heads + head - a.heads) * a.head_dim;
  };
  auto to_of = [&](int64_t head) {
    return head < a.heads ? t.y + (token * a.heads + head) * a.head_dim : t.other_y + (token * a.other_heads + head - a.heads) * a.head_dim;
  };
  for (int place = threadIdx.x - group * across; place < a.places; place += across) {
    if (place >= a.rotating) {
      const int64_t at = 2 * a.half + int64_t{place - a.rotating} * length;
      for (int64_t head = group; head < heads; head += groups) {
        const T* from = from_of(head);
        T* to = to_of(head);
        if (to == from) continue;
        float v[length];
        load_piece(v, from + at);
        store_piece(to + at, v);
      }
      continue;
    }
    float cosine[angles], sine[angles];
    load_angles<aligned>(cosine, a.cosine + position * a.half + place * angles);
    load_angles<aligned>(sine, a.sine + position * a.half + place * angles);
#pragma unroll
    for (int i = 0; i < angles; ++i) sine[i] *= a.direction;
    // Written as explicit multiply-adds so that every instance rounds alike.
    for (int64_t head = group; head < heads; head += groups) {
      const T* from = from_of(head) + place * length;
      T* to = to_of(head) + place * length;
      if constexpr (interleaved) {
        float v[length];
        load_piece(v, from);
#pragma unroll
        for (int i = 0; i < angles; ++i) {
          const float first = v[2 * i], second = v[2 * i + 1];
          v[2 * i] = fmaf(first, cosine[i], -(second * sine[i]));
          v[2 * i + 1] = fmaf(second, cosine[i], first * sine[i]);
        }
        store_piece(to, v);
      } else {
        float low[length], high[length];
        load_piece(low, from);
        load_piece(high, from + a.half);
#pragma unroll
        for (int i = 0; i < angles; ++i) {
          const float first = low[i], second = high[i];
          low[i] = fmaf(first, cosine[i], -(second * sine[i]));
          high[i] = fmaf(second, cosine[i], first * sine[i]);
        }
        store_piece(to, low);
        store_piece(to + a.half, high);
      }
    }
  }
}

namespace {

template <class T, bool interleaved, int length> void run_rope(const RopeTensors<T>& t, int64_t tokens, RopeArguments a) {
  const int64_t turned = interleaved ? 2 * a.half : a.half;
  a.rotating = static_cast<int>(turned / length);
  a.places = a.rotating + static_cast<int>((a.head_dim - 2 * a.half) / length);
  int64_t threads = ceil_div(a.places * (a.heads + a.other_heads), rope_heads_per_thread);
  if (threads < a.places) threads = a.places;
  threads = threads > rope_most_threads ? rope_most_threads : ceil_div(threads, 32) * 32;
  launch(rope_kernel<T, interleaved, length>, {dim3(static_cast<unsigned>(tokens)), dim3(static_cast<unsigned>(threads)), 0, "rope"}, t, a);
}

void check(const char* kernel, In y, In x, In cos, In sin, In position) {
  ANNEAL_CHECK(is_float(x.dtype), "%s: x must be f32 or bf16, but is %s", kernel, name_of(x.dtype));
  ANNEAL_CHECK(x.rank == 3, "%s: x must have shape [tokens, heads, head_dim], but has %s", kernel, ShapeText(x).text);
  check_dtype(kernel, "y", y, x.dtype);
  check_same_shape(kernel, "x", x, y);
  check_dtype(kernel, "cos", cos, DType::f32);
  check_dtype(kernel, "sin", sin, DType::f32);
  check_dtype(kernel, "position", position, DType::i32);
  ANNEAL_CHECK(cos.rank == 2 && 2 * cos.dim(1) <= x.dim(2), "%s: cos must have shape [positions, rotated / 2] with at most %lld columns, but has %s", kernel,
               static_cast<long long>(x.dim(2) / 2), ShapeText(cos).text);
  ANNEAL_CHECK(same_shape(cos, sin), "%s: sin must have the shape of cos, %s, but has %s", kernel, ShapeText(cos).text, ShapeText(sin).text);
  ANNEAL_CHECK(position.size == x.dim(0), "%s: position must have %lld elements, one per token, but has %s", kernel, static_cast<long long>(x.dim(0)),
               ShapeText(position).text);
}

void turn(Out y, Tensor* other_y, In x, const Tensor* other_x, In cos, In sin, In position, bool interleaved, bool inverse) {
  const RopeArguments a = {x.dim(1), other_x ? other_x->dim(1) : 0, x.dim(2), cos.dim(1), cos.dim(0), cos.as<const float>(), sin.as<const float>(),
                           position.as<const int32_t>(), inverse ? -1.f : 1.f, 0, 0, fault()};
  if (x.dim(0) * (a.heads + a.other_heads) * a.head_dim == 0) return;
  dispatch_float("rope", x.dtype, [&](auto number) {
    using T = decltype(number);
    constexpr int length = vector_length<T>;
    auto on_16_bytes = [](const Tensor* tensor) { return !tensor || reinterpret_cast<uintptr_t>(tensor->data) % 16 == 0; };
    const bool aligned = a.head_dim % length == 0 && (interleaved ? 2 * a.half : a.half) % length == 0 && a.half % 4 == 0 && on_16_bytes(&y) && on_16_bytes(&x) &&
                         on_16_bytes(other_y) && on_16_bytes(other_x) && on_16_bytes(&cos) && on_16_bytes(&sin);
    const RopeTensors<T> t = {y.as<T>(), other_y ? other_y->as<T>() : nullptr, x.as<const T>(), other_x ? other_x->as<const T>() : nullptr};
    if (interleaved && aligned) run_rope<T, true, length>(t, x.dim(0), a);
    else if (interleaved) run_rope<T, true, 2>(t, x.dim(0), a);
    else if (aligned) run_rope<T, false, length>(t, x.dim(0), a);
    else run_rope<T, false, 1>(t, x.dim(0), a);
  });
}

}  // namespace

void rope(Out y, In x, In cos, In sin, In position, bool interleaved, bool inverse) {
  check("rope", y, x, cos, sin, position);
  turn(y, nullptr, x, nullptr, cos, sin, position, interleaved, inverse);
}
void rope_pair(Out y, Out other_y, In x, In other_x, In cos, In sin, In position, bool interleaved, bool inverse) {
  check("rope_pair", y, x, cos, sin, position);
  check("rope_pair", other_y, other_x, cos, sin, position);
  check_dtype("rope_pair", "other_x", other_x, x.dtype);
  ANNEAL_CHECK(other_x.dim(2) == x.dim(2), "rope_pair: x and other_x must have one head_dim, but have shapes %s and %s", ShapeText(x).text, ShapeText(other_x).text);
  turn(y, &other_y, x, &other_x, cos, sin, position, interleaved, inverse);
}

}  // namespace anneal::cuda
