// Rotary position embedding. y may be x. Entries past the rotated ones are copied. A block is a token's and reads its cosines and sines once; a thread has
// those of its place in a head in registers and turns that place in several heads, 16 bytes at a time where rows allow it. Two tensors are turned as one with
// the heads of both.
#include "../kernels.h"
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
// Cosines or sines of `count` angles from `from` on, which the block keeps in shared memory, `angles` for each of `across` places. in_fours: 16 bytes at a time.
// Numbers lie where neighbouring places that read theirs together meet no bank twice: pairs of fours crosswise, numbers alone by their order in the place.
template <int angles> ANNEAL_DEVICE int room_of_four(int four) { return angles == 8 ? four ^ (four >> 3 & 1) : four; }
template <bool in_fours, int angles> ANNEAL_DEVICE void keep_angles(Shared room, const float* from, int count, int across) {
  if constexpr (in_fours) {
    for (int i = threadIdx.x; i < count / 4; i += blockDim.x) store_shared_16(room + room_of_four<angles>(i) * 16, load_global_16(from + i * 4));
  } else {
    for (int i = threadIdx.x; i < count; i += blockDim.x) store_shared_4(room + (i % angles * across + i / angles) * 4, __float_as_uint(from[i]));
  }
}
template <bool in_fours, int angles> ANNEAL_DEVICE void load_angles(float (&v)[angles], Shared room, int place, int across) {
#pragma unroll
  for (int i = 0; i < angles; i += in_fours ? 4 : 1) {
    if constexpr (in_fours) {
      float part[4];
      unpack(part, load_shared_16(room + room_of_four<angles>((place * angles + i) / 4) * 16), 0.f);
#pragma unroll
      for (int k = 0; k < 4; ++k) v[i + k] = part[k];
    } else {
      v[i] = __uint_as_float(load_shared_4(room + (i * across + place) * 4));
    }
  }
}

// x and y of each tensor; the other ones are null where there is one only.
template <class T> struct RopeTensors {
  T *y, *other_y;
  const T *x, *other_x;
};

// One block per token. length: numbers of a piece, vector_length<T> where all rows are aligned, else 1, or 2 where interleaved.
template <class T, bool interleaved, int length> __global__ void __launch_bounds__(rope_most_threads) rope_kernel(RopeTensors<T> t, RopeArguments a) {
  constexpr int angles = interleaved ? length / 2 : length;
  constexpr int parts = interleaved ? 1 : 2;  // of what is turned at a time: a head's halves, or a row of pairs
  constexpr bool in_fours = length == vector_length<T> && angles % 4 == 0;
  ANNEAL_DYNAMIC_SHARED(unsigned char, room);
  const int64_t token = blockIdx.x;
  const int position = a.position[token];
  if (position < 0 || position >= a.positions) {
    if (threadIdx.x == 0) report(a.fault, FaultSite::rope_position, token, position, a.positions);
    return;
  }
  const int threads = blockDim.x;
  const int across = a.places < threads ? a.places : threads, group = threadIdx.x / across, groups = threads / across;
  const Shared cosines = to_shared(room), sines = cosines + across * angles * 4;
  const int64_t heads = a.heads + a.other_heads;
  // A head's numbers in x and in y.
  auto from_of = [&](int64_t head) {
    return head < a.heads ? t.x + (token * a.heads + head) * a.head_dim : t.other_x + (token * a.other_heads + head - a.heads) * a.head_dim;
  };
  auto to_of = [&](int64_t head) {
    return head < a.heads ? t.y + (token * a.heads + head) * a.head_dim : t.other_y + (token * a.other_heads + head - a.heads) * a.head_dim;
  };
  for (int base = 0; base < a.places; base += across) {
    const int within = threadIdx.x - group * across, place = base + within;
    const bool is_turning = group < groups && place < a.rotating;
    // What a thread turns next, on its way while angles come and while it turns the head before.
    float ahead[parts][length];
    auto fetch = [&](int64_t head) {
      const T* from = from_of(head) + place * length;
#pragma unroll
      for (int i = 0; i < parts; ++i) load_piece(ahead[i], from + i * a.half);
    };
    if (is_turning && group < heads) fetch(group);
    if (base > 0) __syncthreads();  // the angles of the places before have been read
    const int turning = min(a.rotating - base, across);
    if (turning > 0) {
      keep_angles<in_fours, angles>(cosines, a.cosine + position * a.half + base * angles, turning * angles, across);
      keep_angles<in_fours, angles>(sines, a.sine + position * a.half + base * angles, turning * angles, across);
    }
    __syncthreads();
    if (is_turning) {
      float cosine[angles], sine[angles];
      load_angles<in_fours>(cosine, cosines, within, across);
      load_angles<in_fours>(sine, sines, within, across);
#pragma unroll
      for (int i = 0; i < angles; ++i) sine[i] *= a.direction;
      for (int64_t head = group; head < heads; head += groups) {
        float v[parts][length];
#pragma unroll
        for (int i = 0; i < parts; ++i)
#pragma unroll
          for (int k = 0; k < length; ++k) v[i][k] = ahead[i][k];
        if (head + groups < heads) fetch(head + groups);
        // Written as explicit multiply-adds so that every instance rounds alike.
#pragma unroll
        for (int i = 0; i < angles; ++i) {
          float& low = interleaved ? v[0][2 * i] : v[0][i];
          float& high = interleaved ? v[0][2 * i + 1] : v[parts - 1][i];
          const float first = low, second = high;
          low = fmaf(first, cosine[i], -(second * sine[i]));
          high = fmaf(second, cosine[i], first * sine[i]);
        }
        T* to = to_of(head) + place * length;
#pragma unroll
        for (int i = 0; i < parts; ++i) store_piece(to + i * a.half, v[i]);
      }
    } else if (group < groups && place < a.places) {
      const int64_t at = 2 * a.half + int64_t{place - a.rotating} * length;
      for (int64_t head = group; head < heads; head += groups) {
        const T* from = from_of(head);
        T* to = to_of(head);
        if (to == from) continue;
        float v[length];
        load_piece(v, from + at);
        store_piece(to + at, v);
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
  const int64_t angles = (a.places < threads ? a.places : threads) * (interleaved ? length / 2 : length);
  launch(rope_kernel<T, interleaved, length>, {dim3(static_cast<unsigned>(tokens)), dim3(static_cast<unsigned>(threads)), static_cast<size_t>(2 * angles) * sizeof(float), "rope"}, t, a);
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
  turn(y, nullptr, x, nullptr, cos, sin, position, interleaved, inverse);
}
void rope_pair(Out y, Out other_y, In x, In other_x, In cos, In sin, In position, bool interleaved, bool inverse) {
  turn(y, &other_y, x, &other_x, cos, sin, position, interleaved, inverse);
}

}  // namespace anneal::cuda
