// Kernels that use what PTX and a C++ compiler could see differently. Compiled by nvcc to PTX and by the host compiler with this main, which runs every
// kernel and prints its results as bits, or what went wrong. tests/simt/ptx.test.ts runs it on the host's code and on the PTX and compares.
#include "../../native/cuda/launch.h"

namespace anneal::cuda {

constexpr int count = 64;

// Bits: the selector's sign bits count in prmt, but not in __byte_perm.
__global__ void bits_kernel(uint32_t* y, const uint32_t* x) {
  const int i = threadIdx.x;
  const uint32_t a = x[i], b = x[(i + 1) % count], s = x[(i + 2) % count];
  uint32_t* to = y + 8 * i;
  to[0] = __byte_perm(a, b, s);
  to[1] = prmt(a, b, s);
  to[2] = lop3<0xca>(a, b, s);
  to[3] = static_cast<uint32_t>(__popc(a) + 100 * __clz(static_cast<int>(b)) + 10000 * __ffs(static_cast<int>(s)));
  to[4] = static_cast<uint32_t>((uint64_t{a} * b + s) >> 17);
  to[5] = static_cast<uint32_t>(static_cast<int32_t>(a) / (static_cast<int32_t>(b >> 9) + 1)) + a % (s | 1);
  to[6] = static_cast<uint32_t>((static_cast<int64_t>(a) << 20 | b) % (static_cast<int64_t>(s) + 3));
  to[7] = static_cast<uint32_t>(static_cast<int32_t>(a) >> (s & 31)) ^ (b << (s >> 27));
}

// Conversions to and from every float, as bits.
__global__ void convert_kernel(uint32_t* y, const float* x) {
  const int i = threadIdx.x;
  const float v = x[i];
  uint32_t* to = y + 8 * i;
  to[0] = to_bf16_bits(v);
  to[1] = to_f16_bits(v);
  to[2] = __float_as_uint(from_f16_bits(static_cast<uint16_t>(to[1])));
  to[3] = pack_bf16(v, -v);
  to[4] = static_cast<uint32_t>(static_cast<int64_t>(v * 16777216.0f) >> 3);
  to[5] = __float_as_uint(rintf(v * 3.0f) + floorf(v) * 100.0f + truncf(v * 7.0f) * 10000.0f);
  to[6] = __float_as_uint(static_cast<float>(static_cast<double>(v) / 3.0 + sqrt(fabs(static_cast<double>(v)))));
  to[7] = static_cast<uint32_t>(static_cast<int8_t>(static_cast<int>(v * 10))) + static_cast<uint32_t>(static_cast<uint16_t>(static_cast<int>(v * 99)));
}

// Lanes that take different ways, in loops of different lengths, and meet in shuffles and votes.
__global__ void diverge_kernel(uint32_t* y, const uint32_t* x) {
  const int i = threadIdx.x;
  uint32_t value = x[i] % 1000, steps = 0;
  while (value > 1) {
    value = value & 1 ? 3 * value + 1 : value / 2;
    ++steps;
    if (steps == 40) break;
  }
  const uint32_t ballot = __ballot_sync(~0u, steps & 1);
  uint32_t sum = steps;
  for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  switch (x[i] % 5) {
    case 0: sum += 7; break;
    case 1: sum *= 3; break;
    case 2: sum ^= 0x55; break;
    case 3: sum -= ballot; break;
    default: break;
  }
  y[2 * i] = sum + __shfl_up_sync(~0u, steps, 3) + 2 * __shfl_down_sync(~0u, steps, 5) + 3 * __shfl_sync(~0u, steps, i % 7, 8);
  y[2 * i + 1] = ballot ^ (__any_sync(~0u, steps > 39) ? 1u : 0u) ^ (__all_sync(~0u, steps < 41) ? 2u : 0u);
}

// Asynchronous copies into shared memory, ldmatrix, mma and barriers: z (16×8) = x (16×16) y (8×16)ᵀ.
__global__ void multiply_kernel(float* z, uint32_t* fragments, const bf16* x, const bf16* y) {
  ANNEAL_SHARED(uint4, tiles, 48);
  const int lane = threadIdx.x;
  if (lane < 16) {
    cp_async_16(to_shared(&tiles[2 * lane]), x + 16 * lane);
    cp_async_16(to_shared(&tiles[2 * lane + 1]), x + 16 * lane + 8);
  } else {
    cp_async_16(to_shared(&tiles[16 + lane]), y + 8 * (lane - 16));
  }
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  uint32_t a[4], b[2], transposed[4];
  ldmatrix_x4(a, to_shared(&tiles[2 * (lane % 16) + lane / 16]));
  ldmatrix_x4_trans(transposed, to_shared(&tiles[2 * (lane % 16) + lane / 16]));
  ldmatrix_x2(b, to_shared(&tiles[32 + 2 * (lane % 8) + lane / 8 % 2]));
  float d[4] = {0.5f, 0.25f, 0, 0};
  mma_bf16(d, a, b[0], b[1]);
  for (int i = 0; i < 4; ++i) {
    z[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
    fragments[8 * lane + i] = a[i];
    fragments[8 * lane + 4 + i] = transposed[i];
  }
}

__global__ void double_kernel(uint32_t* y, const double* x) {
  const int i = threadIdx.x;
  const double v = x[i];
  const double results[4] = {exp(v), log(fabs(v) + 0.1), sin(v * 1000), pow(fabs(v), 1.25)};
  // The last bits are the libraries' own.
  for (int k = 0; k < 4; ++k) y[4 * i + k] = __float_as_uint(static_cast<float>(results[k]));
}

__global__ void outside_kernel(uint32_t* y) { y[threadIdx.x + 2048] = 1; }
__global__ void misaligned_kernel(uint32_t* y) { store_global_16(y + 1 + 4 * threadIdx.x, uint4{1, 2, 3, 4}); }
__global__ void unwaited_kernel(uint32_t* y) {
  ANNEAL_SHARED(uint4, tile, 32);
  cp_async_16(to_shared(&tile[threadIdx.x % 32]), y);
  cp_async_commit();
  y[threadIdx.x] = 1;
}
__global__ void half_warp_kernel(float* y) {
  uint32_t a[4] = {};
  float d[4] = {};
  mma_bf16(d, a, 0, 0);
  y[threadIdx.x] = d[0];
}
__global__ void stuck_kernel(uint32_t* y) {
  if (threadIdx.x < 32) named_barrier(1, 64);
  y[threadIdx.x] = 1;
}

}  // namespace anneal::cuda

#if defined(ANNEAL_SIMT)
#include <cmath>
#include <cstdio>

#include "../../native/simt/cuda_runtime.h"

namespace {

using namespace anneal;
using namespace anneal::cuda;

template <class T> T* device(int size) {
  void* data = nullptr;
  cudaMalloc(&data, size * sizeof(T));
  return static_cast<T*>(data);
}

template <class... P> void run(const char* name, void (*kernel)(P...), int threads, const void* results, int words, P... arguments) {
  cudaGetLastError();
  simt::launch<P...>(kernel, dim3(1), dim3(threads), 0, nullptr, arguments...);
  const cudaError_t error = cudaStreamSynchronize(nullptr);
  std::printf("%s:", name);
  if (error != cudaSuccess) std::printf(" %s", cudaGetErrorString(error));
  else for (int i = 0; i < words; ++i) std::printf(" %08x", static_cast<const uint32_t*>(results)[i]);
  std::printf("\n");
}

// The product, and which lane holds which element, by the formulas of the PTX manual for m16n8k16 and ldmatrix.
void check_product(const float* z, const uint32_t* fragments, const bf16* x, const bf16* w) {
  auto number = [](bf16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); };
  int wrong = 0;
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      float sum = i >= 8 ? 0.0f : j % 2 ? 0.25f : 0.5f;
      for (int k = 0; k < 16; ++k) sum += number(x[16 * i + k]) * number(w[16 * j + k]);
      wrong += z[8 * i + j] != sum;
    }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 8; ++i) {
      const int group = lane >> 2, in_group = lane % 4;
      auto half = [&](int register_index) { return static_cast<uint16_t>(fragments[8 * lane + register_index] >> 16 * (i & 1)); };
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
      wrong += half(i / 2) != x[16 * row + column].bits;
      const int row_of_transposed = in_group * 2 + (i & 1) + i / 2 % 2 * 8, column_of_transposed = group + i / 4 * 8;
      wrong += half(4 + i / 2) != x[16 * row_of_transposed + column_of_transposed].bits;
    }
  std::printf("layout: %d wrong\n", wrong);
}

}  // namespace

int main() {
  auto* y = device<uint32_t>(1024);
  auto* fragments = device<uint32_t>(256);
  auto* words = device<uint32_t>(cuda::count);
  auto* floats = device<float>(cuda::count);
  auto* doubles = device<double>(cuda::count);
  auto *x = device<bf16>(256), *w = device<bf16>(128);
  uint32_t state = 1;
  for (int i = 0; i < cuda::count; ++i) {
    state = state * 1664525u + 1013904223u;
    words[i] = state ^ state >> 15;
    floats[i] = (static_cast<float>(words[i] >> 8) / 8388608.0f - 1.0f) * (i % 3 ? 4.0f : 1e-5f);
    doubles[i] = floats[i] * 1.25;
  }
  // Small whole numbers, exact in bf16, and different at every place.
  for (int i = 0; i < 256; ++i) x[i] = {static_cast<uint16_t>(__float_as_uint(static_cast<float>(i - 100)) >> 16)};
  for (int i = 0; i < 128; ++i) w[i] = {static_cast<uint16_t>(__float_as_uint(static_cast<float>(i * 7 % 64 - 30)) >> 16)};
  const uint32_t* in = words;
  const float* numbers = floats;
  const double* wide = doubles;
  const bf16 *left = x, *right = w;
  auto* z = reinterpret_cast<float*>(y);
  run("bits", bits_kernel, 64, y, 512, y, in);
  run("convert", convert_kernel, 64, y, 512, y, numbers);
  run("diverge", diverge_kernel, 64, y, 128, y, in);
  run("multiply", multiply_kernel, 32, y, 128, z, fragments, left, right);
  check_product(z, fragments, x, w);
  run("double", double_kernel, 64, y, 256, y, wide);
  run("outside", outside_kernel, 32, y, 0, y);
  run("misaligned", misaligned_kernel, 32, y, 0, y);
  run("unwaited", unwaited_kernel, 32, y, 0, y);
  run("half_warp", half_warp_kernel, 16, y, 0, z);
  run("stuck", stuck_kernel, 64, y, 0, y);
  return 0;
}
#endif
