// Runs the kernels of kernels.h on the emulator, each in memory of its own, and prints for each `name: ok`, `name: wrong numbers` or what the emulator found.
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "kernels.h"

using namespace anneal::cuda;

namespace {

template <class T> struct DeviceArray {
  T* data = nullptr;
  size_t count;
  explicit DeviceArray(std::vector<T> values) : count(values.size()) {
    cudaMalloc(reinterpret_cast<void**>(&data), count * sizeof(T));
    cudaMemcpyAsync(data, values.data(), count * sizeof(T), cudaMemcpyHostToDevice, nullptr);
  }
  ~DeviceArray() { cudaFree(data); }
  std::vector<T> read() const {
    std::vector<T> values(count);
    cudaMemcpyAsync(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost, nullptr);
    return values;
  }
};

const char* wanted = nullptr;

// body() launches and says whether the numbers are right.
template <class F> void run(const char* name, F&& body) {
  if (wanted && std::string(wanted) != name) return;
  cudaGetLastError();  // forgets what the case before left
  const bool right = body();
  const cudaError_t error = cudaStreamSynchronize(nullptr);
  std::printf("%s: %s\n", name, error != cudaSuccess ? cudaGetErrorString(error) : right ? "ok" : "wrong numbers");
  std::fflush(stdout);
}

// Launches with y in device memory, then compares y with expected(i).
template <class F, class E> bool fills(int size, F&& launch, E&& expected) {
  DeviceArray<float> y(std::vector<float>(size, -1.0f));
  launch(y.data);
  bool right = true;
  const std::vector<float> values = y.read();
  for (int i = 0; i < size; ++i) right = right && values[i] == static_cast<float>(expected(i));
  return right;
}

template <class... P, class... A> void go(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... arguments) {
  anneal::simt::launch<P...>(kernel, grid, block, shared, nullptr, arguments...);
}

std::vector<float> counting(int size) {
  std::vector<float> values(size);
  for (int i = 0; i < size; ++i) values[i] = static_cast<float>(i % 97);
  return values;
}

template <int pending> bool sums() {
  constexpr int rows = 5;
  DeviceArray<float> x(counting(rows * tile));
  const std::vector<float> values = counting(rows * tile);
  return fills(rows, [&](float* y) { go(sum_rows_kernel<pending>, 1, tile, 2 * tile * sizeof(float), x.data, y, rows); }, [&](int row) {
    float sum = 0;
    for (int i = 0; i < tile; ++i) sum += values[row * tile + i];
    return sum;
  });
}

template <bool second_barrier> bool reverses() {
  constexpr int rows = 3;
  DeviceArray<float> x(counting(rows * tile));
  return fills(rows * tile, [&](float* y) { go(reverse_rows_kernel<second_barrier>, 1, tile, 0, x.data, y, rows); },
               [](int i) { return (i / tile * tile + tile - 1 - i % tile) % 97; });
}

template <bool transpose> bool product() {
  std::vector<uint16_t> a(256), b(128);
  std::vector<float> exact_a(256), exact_b(128);
  for (int i = 0; i < 256; ++i) a[i] = to_bf16_bits(exact_a[i] = static_cast<float>(i % 13 - 6));
  for (int i = 0; i < 128; ++i) b[i] = to_bf16_bits(exact_b[i] = static_cast<float>(i % 11 - 5));
  DeviceArray<uint16_t> device_a(a), device_b(b);
  return fills(128, [&](float* c) { go(product_kernel<transpose>, 1, 32, 0, device_a.data, device_b.data, c); }, [&](int i) {
    float sum = 0;
    for (int k = 0; k < 16; ++k) sum += exact_a[i / 8 * 16 + k] * exact_b[k * 8 + i % 8];
    return sum;
  });
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) wanted = arguments[1];
  cudaStream_t stream;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  auto anything = [](int) { return NAN; };
  auto one = [](int) { return 1.0f; };
  DeviceArray<float> x(counting(1024));

  run("sums of rows", sums<1>);
  run("reversed rows", reverses<true>);
  run("product", product<true>);
  run("hand over", [&] { return fills(32, [](float* y) { go(hand_over_kernel, 1, 96, 0, y); }, [](int i) { return 3 * (31 - i); }); });
  run("counts", [] {
    std::vector<int> kinds(5000);
    for (int i = 0; i < 5000; ++i) kinds[i] = i * i;
    DeviceArray<int> values(kinds), counts(std::vector<int>(4, 0));
    go(count_kernel, 7, 128, 0, values.data, 5000, counts.data);
    return counts.read() == std::vector<int>{2500, 2500, 0, 0};
  });
  run("early exit", [&] { return fills(40, [](float* y) { go(early_exit_kernel, 1, 64, 0, y, 40); }, [](int i) { return 39 - i; }); });
  run("functions", [] {
    DeviceArray<int> wrong(std::vector<int>(32, -1));
    go(functions_kernel, 1, 32, 0, wrong.data);
    return wrong.read() == std::vector<int>(32, 0);
  });

  run("missing barrier", [&] { return fills(64, [](float* y) { go(missing_barrier_kernel, 1, 64, 0, y); }, [](int i) { return 63 - i; }); });
  run("missing syncwarp", [&] { return fills(32, [](float* y) { go(missing_syncwarp_kernel, 1, 32, 0, y); }, [](int i) { return 31 - i; }); });
  run("weak wait", sums<2>);
  run("reused too early", reverses<false>);
  run("wrong fragment", product<false>);
  run("blocks race", [&] { return fills(1, [](float* y) { go(blocks_race_kernel, 2, 1, 0, y); }, one); });
  run("read beyond", [&] { return fills(20, [&](float* y) { go(read_beyond_kernel, 1, 32, 0, DeviceArray<float>(counting(20)).data, y, 20); }, anything); });
  run("write beyond", [&] { return fills(20, [](float* y) { go(write_beyond_kernel, 1, 32, 0, y, 20); }, one); });
  run("write beyond shared", [&] { return fills(64, [](float* y) { go(write_beyond_shared_kernel, 1, 64, 256, y); }, anything); });
  run("uninitialised", [&] { return fills(64, [](float* y) { go(uninitialised_kernel, 1, 64, 0, y); }, one); });
  run("divergent shuffle", [&] { return fills(32, [](float* y) { go(divergent_shuffle_kernel, 1, 32, 0, y); }, one); });
  run("absent lane", [&] { return fills(16, [](float* y) { go(absent_lane_kernel, 1, 32, 0, y); }, one); });
  run("divergent barrier", [&] { return fills(64, [](float* y) { go(divergent_barrier_kernel, 1, 64, 0, y); }, one); });
  run("deadlock", [&] { return fills(64, [](float* y) { go(deadlock_kernel, 1, 64, 0, y); }, one); });
  run("misaligned copy", [&] { return fills(1, [&](float* y) { go(misaligned_copy_kernel, 1, 1, 0, x.data, y); }, one); });
  run("misaligned load", [&] { return fills(1, [&](float* y) { go(misaligned_load_kernel, 1, 1, 0, x.data, y); }, one); });
  run("missing wait", [&] { return fills(4, [&](float* y) { go(missing_wait_kernel, 1, 4, 0, x.data, y); }, one); });
  run("wild pointer", [&] { return fills(1, [](float* y) { go(wild_pointer_kernel, 1, 1, 0, y); }, one); });
  run("endless stack", [&] { return fills(1, [](float* y) { go(endless_stack_kernel, 1, 1, 0, y, 1); }, one); });
  run("too many threads", [&] { return fills(1, [](float* y) { go(blocks_race_kernel, 1, 2048, 0, y); }, one); });
  run("too large a grid", [&] { return fills(1, [](float* y) { go(blocks_race_kernel, dim3(1, 70000), 1, 0, y); }, one); });
  run("too much shared memory", [&] { return fills(1, [](float* y) { go(blocks_race_kernel, 1, 1, 300 << 10, y); }, one); });

  auto transposed = [](int i) { return (i % 32 * 32 + i / 32) % 97; };
  run("transpose, conflicts", [&] { return fills(1024, [&](float* y) { go(transpose_kernel<32>, 1, 32, 0, x.data, y); }, transposed); });
  run("transpose, padded", [&] { return fills(1024, [&](float* y) { go(transpose_kernel<33>, 1, 32, 0, x.data, y); }, transposed); });
  auto every = [](int stride) { return [=](int i) { return i % stride == 0 ? 1.0f : -1.0f; }; };
  run("scatter", [&] { return fills(512, [](float* y) { go(scatter_kernel<16>, 1, 32, 0, y); }, every(16)); });
  run("gather", [&] { return fills(32, [](float* y) { go(scatter_kernel<1>, 1, 32, 0, y); }, every(1)); });
  run("matrices, conflicts", [&] { fills(32, [&](float* y) { go(load_matrix_kernel<false>, 1, 32, 4096, x.data, y); }, one); return true; });
  run("matrices, swizzled", [&] { fills(32, [&](float* y) { go(load_matrix_kernel<true>, 1, 32, 4096, x.data, y); }, one); return true; });
  cudaStreamDestroy(stream);
}
