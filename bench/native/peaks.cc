// The machine's peaks, to compare kernels with: multiply-adds that never leave the registers, per instruction set, and memory traffic far beyond the
// caches, both on all threads. Prints JSON: GFLOP/s and GB/s, the median of several runs. Usage: peaks [threads]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int runs = 7;
volatile float sink;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// work() on every thread at once, in units a second.
double rate(int threads, const std::function<double(int)>& work) {
  std::vector<double> rates;
  for (int run = 0; run < runs; ++run) {
    std::atomic<int> ready{0};
    std::vector<double> units(static_cast<size_t>(threads)), begins(units), ends(units);
    std::vector<std::thread> all;
    for (int t = 0; t < threads; ++t)
      all.emplace_back([&, t] {
        work(t);  // warms up
        for (ready.fetch_add(1); ready.load() < threads;) {}
        const size_t i = static_cast<size_t>(t);
        begins[i] = seconds();
        units[i] = work(t);
        ends[i] = seconds();
      });
    for (std::thread& thread : all) thread.join();
    double total = 0;
    for (double u : units) total += u;
    rates.push_back(total / (*std::max_element(ends.begin(), ends.end()) - *std::min_element(begins.begin(), begins.end())));
  }
  std::sort(rates.begin(), rates.end());
  return rates[runs / 2];
}

constexpr int64_t iterations = 20000000;

// Sums by name, not in an array: the compiler then keeps each in a register. Twelve hide the latency of four cycles on two or three units.
#define EACH_SUM(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
constexpr int sums = 12;
#define DECLARE(k) auto s##k = one;
#define STEP(k) s##k = step(s##k);
#define TOTAL(k) one = one + s##k;

// `one` is a vector of ones and step a function of a vector; the empty asm keeps the loop from being changed.
#define LOOP(constraint, operations) \
  EACH_SUM(DECLARE) \
  for (int64_t i = 0; i < iterations; ++i) { \
    EACH_SUM(STEP) \
    asm volatile("" : "+" constraint(s0), "+" constraint(s1), "+" constraint(s2), "+" constraint(s3), "+" constraint(s4), "+" constraint(s5)); \
    asm volatile("" : "+" constraint(s6), "+" constraint(s7), "+" constraint(s8), "+" constraint(s9), "+" constraint(s10), "+" constraint(s11)); \
  } \
  EACH_SUM(TOTAL) \
  float first; \
  memcpy(&first, &one, 4); \
  sink = first; \
  return static_cast<double>(operations) * sums * static_cast<double>(iterations);

#if defined(__x86_64__)
double fma_baseline(int) {
  __m128 one = _mm_set1_ps(1.f);
  const __m128 a = _mm_set1_ps(0.999f), b = _mm_set1_ps(0.001f);
#define step(s) _mm_add_ps(_mm_mul_ps(s, a), b)
  LOOP("x", 8)
#undef step
}

__attribute__((target("avx2,fma"))) double fma_avx2(int) {
  __m256 one = _mm256_set1_ps(1.f);
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
#define step(s) _mm256_fmadd_ps(s, a, b)
  LOOP("x", 16)
#undef step
}

__attribute__((target("avx512f"))) double fma_avx512(int) {
  __m512 one = _mm512_set1_ps(1.f);
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
#define step(s) _mm512_fmadd_ps(s, a, b)
  LOOP("v", 32)
#undef step
}

__attribute__((target("avx512f,avx512bf16"))) double dot_bf16(int) {
  __m512 one = _mm512_set1_ps(1.f);
  const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
#define step(s) _mm512_dpbf16_ps(s, a, a)
  LOOP("v", 64)
#undef step
}
#else
double fma_baseline(int) {
  typedef float vector __attribute__((vector_size(16)));
  vector one = vector{} + 1.f;
  const vector a = vector{} + 0.999f, b = vector{} + 0.001f;
#define step(s) (s * a + b)
  LOOP("w", 8)
#undef step
}
#endif

constexpr size_t memory_bytes = size_t{512} << 20;  // of all threads together
constexpr size_t places = 4;                        // that a thread reads at once, and asks for ahead: memory gives more than at one

struct Memory {
  std::vector<std::unique_ptr<char[]>> from, to;
  size_t each;
  explicit Memory(int threads) : each(memory_bytes / static_cast<size_t>(threads) / 4096 * 4096) {
    for (int t = 0; t < threads; ++t) {
      from.push_back(std::make_unique<char[]>(each));
      to.push_back(std::make_unique<char[]>(each));
      memset(from.back().get(), 1, each);
      memset(to.back().get(), 1, each);
    }
  }
  double read(int t) const {
    const uint64_t* words = reinterpret_cast<const uint64_t*>(from[static_cast<size_t>(t)].get());
    const size_t part = each / 8 / places;
    uint64_t sums[8] = {};
    for (size_t i = 0; i < part; i += 8)
      for (size_t place = 0; place < places; ++place) {
        __builtin_prefetch(words + place * part + i + 128);
        for (size_t k = 0; k < 8; ++k) sums[k] += words[place * part + i + k];
      }
    for (uint64_t s : sums) sink = sink + static_cast<float>(s);
    return static_cast<double>(each);
  }
  double copy(int t) const {
    memcpy(to[static_cast<size_t>(t)].get(), from[static_cast<size_t>(t)].get(), each);
    return 2 * static_cast<double>(each);
  }
};

}  // namespace

int main(int count, char** arguments) {
  int threads = count > 1 ? std::atoi(arguments[1]) : static_cast<int>(std::thread::hardware_concurrency());
  if (threads < 1) threads = 1;
  printf("{\"threads\": %d, \"gflops\": {\"baseline\": %.1f", threads, rate(threads, fma_baseline) / 1e9);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) printf(", \"avx2\": %.1f", rate(threads, fma_avx2) / 1e9);
  if (__builtin_cpu_supports("avx512f")) printf(", \"avx512\": %.1f", rate(threads, fma_avx512) / 1e9);
  if (__builtin_cpu_supports("avx512bf16")) printf(", \"avx512bf16\": %.1f", rate(threads, dot_bf16) / 1e9);
#endif
  const Memory memory(threads);
  printf("}, \"read\": %.1f", rate(threads, [&](int t) { return memory.read(t); }) / 1e9);
  printf(", \"copy\": %.1f}\n", rate(threads, [&](int t) { return memory.copy(t); }) / 1e9);
}
