// Filling a tensor with random numbers, and dropout. A value depends on seed, stream and element index only: four elements share a counter. Logarithm, sine and cosine are the CPU's polynomials with fused steps, so that both backends draw the same numbers but for the last bits.
#include <cmath>

#include "../kernels.h"
#include "elements.h"
#include "random.h"

namespace anneal::cuda {

// log(x) of a normal number x in (0, 1].
ANNEAL_DEVICE float log_of_uniform(float x) {
  const int32_t bits = static_cast<int32_t>(__float_as_uint(x)), e = (bits - 0x3f3504f3) >> 23;  // x = 2^e m with m in [sqrt(1/2), sqrt(2))
  const float f = __uint_as_float(static_cast<uint32_t>(bits - e * (1 << 23))) - 1.f, n = static_cast<float>(e), s = f * f;
  float p = -7.6344966888e-2f;
  p = fmaf(p, f, 1.2761576474e-1f);
  p = fmaf(p, f, -1.3160182536e-1f);
  p = fmaf(p, f, 1.4201757312e-1f);
  p = fmaf(p, f, -1.6623356938e-1f);
  p = fmaf(p, f, 2.0001226664e-1f);
  p = fmaf(p, f, -2.5000819564e-1f);
  p = fmaf(p, f, 3.3333331347e-1f);
  return fmaf(n, 0.693359375f, f + fmaf(n, -2.12194440e-4f, fmaf(s * f, p, s * -0.5f)));
}
// sin(2 pi t) and cos(2 pi t) for t in [0, 1).
ANNEAL_DEVICE void sin_cos_turns(float t, float& sine, float& cosine) {
  const float quarters = t * 4.f, nearest = rintf(quarters), f = quarters - nearest, s = f * f;
  const int quadrant = static_cast<int>(nearest);
  float a = 1.5820673434e-4f;
  a = fmaf(a, s, -4.6812663786e-3f);
  a = fmaf(a, s, 7.9692579806e-2f);
  a = fmaf(a, s, -6.4596408606e-1f);
  a = fmaf(a, s, 1.5707963705f) * f;
  float b = 9.0363167692e-4f;
  b = fmaf(b, s, -2.0860072225e-2f);
  b = fmaf(b, s, 2.5366920233e-1f);
  b = fmaf(b, s, -1.2337005138f);
  b = fmaf(b, s, 1.f);
  sine = quadrant & 1 ? b : a;
  cosine = quadrant & 1 ? a : b;
  if (quadrant & 2) sine = -sine;
  if ((quadrant + 1) & 2) cosine = -cosine;
}

// The upper 24 bits of a word as a fraction.
ANNEAL_DEVICE float fraction(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

struct Uniform {
  float start, width, last;
  ANNEAL_DEVICE void operator()(float (&v)[4], const PhiloxWords& words) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = fminf(fmaf(fraction(words.at[k]), width, start), last);
  }
};
// Box and Muller: words (2j, 2j + 1) give a radius and an angle, whose cosine and sine are elements 2j and 2j + 1.
struct Normal {
  float centre, spread;
  ANNEAL_DEVICE void operator()(float (&v)[4], const PhiloxWords& words) const {
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
      // (word + 1) / 2^24 of the upper 24 bits is in (0, 1]; its logarithm is finite.
      const float radius = sqrtf(-2.f * log_of_uniform(static_cast<float>((words.at[k] >> 8) + 1) * 0x1p-24f));
      float sine, cosine;
      sin_cos_turns(fraction(words.at[k + 1]), sine, cosine);
      v[k] = fmaf(radius * cosine, spread, centre);
      v[k + 1] = fmaf(radius * sine, spread, centre);
    }
  }
};

template <class Distribution, class T>
__global__ void __launch_bounds__(map_threads) random_kernel(T* y, int64_t size, bool aligned, uint64_t seed, uint64_t stream, Distribution distribution) {
  constexpr int n = elements_per_thread<T>;
  const int64_t first = (int64_t{blockIdx.x} * map_threads + threadIdx.x) * n;
  if (first >= size) return;
  Elements<T, n> result;
#pragma unroll
  for (int part = 0; part < n; part += 4) {
    float v[4];
    distribution(v, philox(seed, stream, static_cast<uint64_t>(first + part) / 4));
#pragma unroll
    for (int k = 0; k < 4; ++k) result.at[part + k] = from_float<T>(v[k]);
  }
  if (aligned && first + n <= size) return store_elements(y + first, result);
#pragma unroll
  for (int k = 0; k < n; ++k)
    if (first + k < size) y[first + k] = result.at[k];
}

// An element is dropped where its word is below `threshold`. y may be x.
template <class T>
__global__ void __launch_bounds__(map_threads) dropout_kernel(T* y, const T* x, int64_t size, bool aligned, uint64_t seed, uint64_t stream, uint32_t threshold, float scale) {
  constexpr int n = elements_per_thread<T>;
  const int64_t first = (int64_t{blockIdx.x} * map_threads + threadIdx.x) * n;
  if (first >= size) return;
  const bool whole = aligned && first + n <= size;
  Elements<T, n> v;
  if (whole) v = load_elements<n>(x + first);
  else
#pragma unroll
    for (int k = 0; k < n; ++k) v.at[k] = first + k < size ? x[first + k] : T{};
#pragma unroll
  for (int part = 0; part < n; part += 4) {
    const PhiloxWords words = philox(seed, stream, static_cast<uint64_t>(first + part) / 4);
#pragma unroll
    for (int k = 0; k < 4; ++k) v.at[part + k] = from_float<T>(words.at[k] >= threshold ? to_float(v.at[part + k]) * scale : 0.f);
  }
  if (whole) return store_elements(y + first, v);
#pragma unroll
  for (int k = 0; k < n; ++k)
    if (first + k < size) y[first + k] = v.at[k];
}

namespace {

// The largest value of y's dtype below `high`: rounding must not reach it.
float largest_below(double high, DType dtype) {
  float f = static_cast<float>(high);
  if (!(f < high)) f = nextafterf(f, -INFINITY);
  if (dtype == DType::f32) return f;
  uint32_t bits;
  memcpy(&bits, &f, 4);
  // Towards -inf: cutting the low bits lowers a positive number's magnitude; a negative number's must grow.
  if (bits >> 31 && (bits & 0xffff)) bits += 0x10000;
  bits &= 0xffff0000u;
  memcpy(&f, &bits, 4);
  return f;
}

template <class Distribution> void draw(const char* kernel, Tensor& y, int64_t seed, int64_t stream, Distribution distribution) {
  dispatch_float(kernel, y.dtype, [&](auto number) {
    using T = decltype(number);
    launch(random_kernel<Distribution, T>, {blocks_of(ceil_div(y.size, elements_per_thread<T>)), dim3(map_threads), 0, kernel}, y.as<T>(), y.size, is_aligned_to(16, y.data),
           static_cast<uint64_t>(seed), static_cast<uint64_t>(stream), distribution);
  });
}

}  // namespace

void random_uniform(Out y, double low, double high, int64_t seed, int64_t stream) {
  draw("random_uniform", y, seed, stream, Uniform{static_cast<float>(low), static_cast<float>(high - low), largest_below(high, y.dtype)});
}

void random_normal(Out y, double mean, double deviation, int64_t seed, int64_t stream) {
  draw("random_normal", y, seed, stream, Normal{static_cast<float>(mean), static_cast<float>(deviation)});
}

void dropout(Out y, In x, double p, int64_t seed, int64_t stream) {
  if (p == 1) return fill(y, 0);
  // p < 1, so the rounded threshold is clamped to what a word can hold.
  const double scaled = p * 4294967296.0 + 0.5;
  const uint32_t threshold = scaled >= 4294967295.0 ? 4294967295u : static_cast<uint32_t>(scaled);
  dispatch_float("dropout", x.dtype, [&](auto number) {
    using T = decltype(number);
    const bool aligned = is_aligned_to(16, y.data) && is_aligned_to(16, x.data);
    launch(dropout_kernel<T>, {blocks_of(ceil_div(x.size, elements_per_thread<T>)), dim3(map_threads), 0, "dropout"}, y.as<T>(), x.as<const T>(), x.size, aligned, static_cast<uint64_t>(seed),
           static_cast<uint64_t>(stream), threshold, static_cast<float>(1 / (1 - p)));
  });
}

}  // namespace anneal::cuda
