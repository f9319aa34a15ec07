// emu.h - CPU SIMT emulator: CUDA threads as fibers, one block at a time per OS thread.
#pragma once
#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include <math.h>
#include <stdio.h>
#include <algorithm>
#include <tuple>
#include <type_traits>
#include <utility>
#include <string>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ DO_NOT_USE_shared_use_ANNEAL_SHARED
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#ifndef __restrict__
#define __restrict__ __restrict
#endif
#define ANNEAL_DEVICE inline __attribute__((always_inline))
#define SIMT_NOINSTR __attribute__((no_sanitize("thread")))

// ---------------------------------------------------------------- vector types
struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {} };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float a, float b) { return {a, b}; }
inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }
inline uint2 make_uint2(unsigned a, unsigned b) { return {a, b}; }
inline uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }
inline int2 make_int2(int a, int b) { return {a, b}; }
inline int4 make_int4(int a, int b, int c, int d) { return {a, b, c, d}; }
using std::max; using std::min;

// ---------------------------------------------------------------- 16-bit floats
inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
inline int __float_as_int(float f) { return (int)__float_as_uint(f); }
inline float __int_as_float(int i) { return __uint_as_float((unsigned)i); }
namespace anneal::simt {
inline uint16_t f2bf(float f) { uint32_t u = __float_as_uint(f); if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff; return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16); }
inline float bf2f(uint16_t h) { return __uint_as_float((uint32_t)h << 16); }
inline uint16_t f2h(float f) { _Float16 h = (_Float16)f; uint16_t u; memcpy(&u, &h, 2); return u; }
inline float h2f(uint16_t u) { _Float16 h; memcpy(&h, &u, 2); return (float)h; }
}  // namespace anneal::simt

// ---------------------------------------------------------------- emulator core
namespace anneal::simt {
enum class Op : uint8_t { None, Shfl, Vote, SyncWarp, Ldmatrix, Mma };
struct Block;
struct Warp;
struct CpGroup;
struct Fiber {                      // one CUDA thread
  void* sp = nullptr;
  uint3 tid{};
  uint16_t lin = 0; uint8_t lane = 0; uint8_t state = 0;   // 0 ready, 1 blocked, 2 done
  Warp* warp = nullptr; Block* blk = nullptr;
  CpGroup* cp = nullptr;
  uint32_t* vc = nullptr;           // vector clock (race mode)
  void* fake = nullptr; char* stk = nullptr; size_t stksz = 0;
  const char* where = "";
};
extern thread_local Fiber* cur;
struct Idx { uint3 blockIdx; dim3 blockDim, gridDim; };
extern thread_local Idx idx;

enum class Order { Ascending, Descending, Random };
struct Config {
  Order order = Order::Ascending; uint64_t seed = 1;
  int os_threads = 1;               // blocks in parallel on OS threads
  bool race = false;                // needs the hook build (-fsanitize=thread objects)
  bool profile = false;             // bank conflicts, sectors (hook build)
  bool mma_rz = false;              // round tensor-core sums toward zero
};
extern Config cfg;
struct Stats { uint64_t switches, collectives, mma, ldmatrix, barriers, threads, cp_bytes, accesses, shfl;
  uint64_t sm_req, sm_wave, gl_req, gl_sector, gl_bytes; };
extern Stats stats;                 // of the last launch(es); reset with stats = {}
struct Report { int errors = 0; std::string text; };
extern Report report;               // races, out-of-bounds, divergence; reset with report = {}
void error(const char* kind, const char* fmt, ...) __attribute__((format(printf, 2, 3)));

void collective(Op op, uint32_t mask, void* operand, void (*fn)(void**, uint32_t), const char* where);
void barrier(int id, int count, const char* where);
int barrier_reduce(int pred, int kind);
void* dyn_smem();
void* static_smem(const void* tag, size_t bytes, size_t align);
void cp_async(void* dst, const void* src, int bytes, bool pred);
void cp_commit();
void cp_wait(int n);
void access(const void* p, size_t n, bool write, bool atomic, const void* pc);
void vload(void* dst, const void* src, size_t n);         // explicit vector access: alignment checked
void vstore(void* dst, const void* src, size_t n);
void ldm_access(void** ops, uint32_t mask, int nmat);
void* dmalloc(size_t n, bool poison = true);   // "device" memory with guards, poisoned
void dfree(void* p);
void yield_hint();
void run(dim3 grid, dim3 block, size_t smem, void (*thunk)(void*), void* args);

template <class... P, class... A>
void launch_fibers(void (*k)(P...), dim3 g, dim3 b, size_t smem, A&&... a) {
  std::tuple<std::decay_t<P>...> args(static_cast<P>(a)...);
  struct Pack { void (*k)(P...); std::tuple<std::decay_t<P>...>* t; } pk{k, &args};
  run(g, b, smem, [](void* v) { auto* p = (Pack*)v; std::apply(p->k, *p->t); }, &pk);
}
}  // namespace anneal::simt

#define threadIdx (anneal::simt::cur->tid)
#define blockIdx (anneal::simt::idx.blockIdx)
#define blockDim (anneal::simt::idx.blockDim)
#define gridDim (anneal::simt::idx.gridDim)
#define warpSize 32
#define SIMT_STR2(x) #x
#define SIMT_STR(x) SIMT_STR2(x)
#define ANNEAL_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(anneal::simt::dyn_smem())
#define ANNEAL_SHARED(T, name, n) static char name##_tag_; T(&name)[n] = *reinterpret_cast<T(*)[n]>(anneal::simt::static_smem(&name##_tag_, sizeof(T) * (n), alignof(T)))
#define __syncthreads() anneal::simt::barrier(0, -1, __FILE__ ":" SIMT_STR(__LINE__))
#define __syncthreads_or(p) anneal::simt::barrier_reduce((p) != 0, 1)
#define __syncthreads_and(p) anneal::simt::barrier_reduce((p) != 0, 0)
#define __syncthreads_count(p) anneal::simt::barrier_reduce((p) != 0, 2)
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __syncwarp(unsigned m = 0xffffffffu) { anneal::simt::collective(anneal::simt::Op::SyncWarp, m, nullptr, nullptr, "__syncwarp"); }

// ---------------------------------------------------------------- shuffles, votes
namespace anneal::simt {
struct ShOp { uint64_t v; int src; uint64_t out; };
inline void sh_fn(void** p, uint32_t m) {
  for (uint32_t k = m; k; k &= k - 1) { int l = __builtin_ctz(k); auto* o = (ShOp*)p[l];
    if (!(m >> o->src & 1)) { error("shfl", "lane %d reads lane %d, which is not in the mask %08x", l, o->src, m); o->out = 0x7ff7ffff7ff7ffffull; }
    else o->out = ((ShOp*)p[o->src])->v; }
}
template <class T> inline T shfl(uint32_t m, T v, int src, const char* w) {
  static_assert(sizeof(T) <= 8, ""); ShOp o{0, src, 0}; memcpy(&o.v, &v, sizeof(T));
  collective(Op::Shfl, m, &o, sh_fn, w); T r; memcpy(&r, &o.out, sizeof(T)); return r;
}
struct VoteOp { int p; uint32_t ballot; };
inline void vote_fn(void** p, uint32_t m) {
  uint32_t b = 0; for (uint32_t k = m; k; k &= k - 1) { int l = __builtin_ctz(k); if (((VoteOp*)p[l])->p) b |= 1u << l; }
  for (uint32_t k = m; k; k &= k - 1) ((VoteOp*)p[__builtin_ctz(k)])->ballot = b;
}
}  // namespace anneal::simt
template <class T> inline T __shfl_sync(unsigned m, T v, int src, int w = 32) { int l = anneal::simt::cur->lane; return anneal::simt::shfl(m, v, (l & ~(w - 1)) | (src & (w - 1)), "__shfl_sync"); }
template <class T> inline T __shfl_xor_sync(unsigned m, T v, int x, int w = 32) { int l = anneal::simt::cur->lane, s = l ^ x; if ((s & ~(w - 1)) > (l & ~(w - 1))) s = l; return anneal::simt::shfl(m, v, s, "__shfl_xor_sync"); }
template <class T> inline T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32) { int l = anneal::simt::cur->lane; int s = (l & (w - 1)) + (int)d < w ? l + (int)d : l; return anneal::simt::shfl(m, v, s, "__shfl_down_sync"); }
template <class T> inline T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32) { int l = anneal::simt::cur->lane; int s = (l & (w - 1)) >= (int)d ? l - (int)d : l; return anneal::simt::shfl(m, v, s, "__shfl_up_sync"); }
inline unsigned __ballot_sync(unsigned m, int p) { anneal::simt::VoteOp o{p, 0}; anneal::simt::collective(anneal::simt::Op::Vote, m, &o, anneal::simt::vote_fn, "__ballot_sync"); return o.ballot; }
inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
inline int __all_sync(unsigned m, int p) { return __ballot_sync(m, p) == m; }
inline unsigned __activemask() { return 0xffffffffu; }

// ---------------------------------------------------------------- atomics
namespace anneal::simt {
template <class T, class F> inline T rmw(T* p, F f) {
  access(p, sizeof(T), true, true, __builtin_return_address(0));
  using U = std::conditional_t<sizeof(T) == 4, uint32_t, std::conditional_t<sizeof(T) == 8, uint64_t, uint16_t>>;
  U* q = (U*)p; U o = __atomic_load_n(q, __ATOMIC_RELAXED), n; T t;
  do { memcpy(&t, &o, sizeof t); T r = f(t); memcpy(&n, &r, sizeof r); } while (!__atomic_compare_exchange_n(q, &o, n, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
  memcpy(&t, &o, sizeof t); return t;
}
}  // namespace anneal::simt
template <class T> SIMT_NOINSTR inline T atomicAdd(T* p, T v) { return anneal::simt::rmw(p, [v](T o) { return (T)(o + v); }); }
template <class T> SIMT_NOINSTR inline T atomicMax(T* p, T v) { return anneal::simt::rmw(p, [v](T o) { return o > v ? o : v; }); }
template <class T> SIMT_NOINSTR inline T atomicMin(T* p, T v) { return anneal::simt::rmw(p, [v](T o) { return o < v ? o : v; }); }
template <class T> SIMT_NOINSTR inline T atomicExch(T* p, T v) { return anneal::simt::rmw(p, [v](T) { return v; }); }
template <class T> SIMT_NOINSTR inline T atomicCAS(T* p, T c, T v) { return anneal::simt::rmw(p, [c, v](T o) { return o == c ? v : o; }); }
template <class T> SIMT_NOINSTR inline T atomicOr(T* p, T v) { return anneal::simt::rmw(p, [v](T o) { return (T)(o | v); }); }

// ---------------------------------------------------------------- scalar intrinsics
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
namespace anneal::cuda { inline unsigned prmt(unsigned a, unsigned b, unsigned s) {       // PTX prmt.b32, default mode
  uint64_t v = ((uint64_t)b << 32) | a; unsigned r = 0;
  for (int i = 0; i < 4; i++) { unsigned c = (s >> (4 * i)) & 0xf; unsigned by = (unsigned)(v >> (8 * (c & 7))) & 0xff; if (c & 8) by = (by & 0x80) ? 0xff : 0; r |= by << (8 * i); }
  return r;
} }
// CUDA's intrinsic uses 3 selector bits only (nvcc masks with 0x7777): no sign replication. Found by the PTX run.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) { return anneal::cuda::prmt(a, b, s & 0x7777u); }
template <class T> inline T __ldg(const T* p) { return *p; }


// ---------------------------------------------------------------- PTX wrappers
namespace anneal::simt {
struct LdmOp { const void* addr; uint32_t r[4]; };
struct MmaOp { float* d; const uint32_t* a; uint32_t b0, b1; };
void ldm4_fn(void**, uint32_t); void ldm4t_fn(void**, uint32_t); void ldm2_fn(void**, uint32_t); void ldm2t_fn(void**, uint32_t);
void mma_bf16_fn(void**, uint32_t);
}  // namespace anneal::simt
namespace anneal::cuda {
struct Shared {                       // address in the window of shared memory
  unsigned char* p;
  Shared() = default; explicit Shared(const void* q) : p((unsigned char*)q) {}
  Shared operator+(ptrdiff_t o) const { return Shared(p + o); }
  Shared& operator+=(ptrdiff_t o) { p += o; return *this; }
};
inline Shared to_shared(const void* p) { return Shared(p); }
inline void ldmatrix_x4(uint32_t (&r)[4], Shared a) { simt::LdmOp o{a.p, {}}; simt::collective(simt::Op::Ldmatrix, ~0u, &o, simt::ldm4_fn, "ldmatrix.x4"); for (int i = 0; i < 4; i++) r[i] = o.r[i]; }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], Shared a) { simt::LdmOp o{a.p, {}}; simt::collective(simt::Op::Ldmatrix, ~0u, &o, simt::ldm4t_fn, "ldmatrix.x4.trans"); for (int i = 0; i < 4; i++) r[i] = o.r[i]; }
inline void ldmatrix_x2(uint32_t (&r)[2], Shared a) { simt::LdmOp o{a.p, {}}; simt::collective(simt::Op::Ldmatrix, ~0u, &o, simt::ldm2_fn, "ldmatrix.x2"); r[0] = o.r[0]; r[1] = o.r[1]; }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], Shared a) { simt::LdmOp o{a.p, {}}; simt::collective(simt::Op::Ldmatrix, ~0u, &o, simt::ldm2t_fn, "ldmatrix.x2.trans"); r[0] = o.r[0]; r[1] = o.r[1]; }
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { simt::MmaOp o{d, a, b0, b1}; simt::collective(simt::Op::Mma, ~0u, &o, simt::mma_bf16_fn, "mma.bf16"); }
inline void cp_async_16(Shared to, const void* from, bool valid = true) { simt::cp_async(to.p, from, 16, valid); }
inline void cp_async_commit() { simt::cp_commit(); }
template <int N> inline void cp_async_wait() { simt::cp_wait(N); }
inline uint4 load_global_16(const void* p) { uint4 v; simt::vload(&v, p, 16); return v; }
inline uint4 load_global_once_16(const void* p) { return load_global_16(p); }
inline void store_global_16(void* p, uint4 v) { simt::vstore(p, &v, 16); }
inline uint4 load_shared_16(Shared a) { return load_global_16(a.p); }
inline void store_shared_16(Shared a, uint4 v) { simt::vstore(a.p, &v, 16); }
inline void store_shared_4(Shared a, uint32_t v) { simt::vstore(a.p, &v, 4); }
inline float exp2_fast(float x) { return exp2f(x); }
inline uint32_t pack_bf16(float low, float high) { return (uint32_t)simt::f2bf(low) | ((uint32_t)simt::f2bf(high) << 16); }
inline uint16_t to_bf16_bits(float x) { return simt::f2bf(x); }
inline uint16_t to_f16_bits(float x) { return simt::f2h(x); }
inline float from_f16_bits(uint16_t x) { return simt::h2f(x); }
template <int LUT> inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r = 0; for (int i = 0; i < 8; i++) if (LUT >> i & 1) r |= ((i & 4) ? a : ~a) & ((i & 2) ? b : ~b) & ((i & 1) ? c : ~c); return r; }
inline void named_barrier(int id, int n) { simt::barrier(id, n, "bar.sync"); }
}  // namespace anneal::cuda
