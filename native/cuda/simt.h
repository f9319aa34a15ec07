// One kernel source, two targets: inline PTX where nvcc compiles it, the emulator of native/simt where a C++ compiler does. Kernels use CUDA's own
// names for what CUDA has (threadIdx, __syncthreads, __shfl_xor_sync, atomicAdd), and these wrappers for what needs PTX.
#pragma once
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>

#define ANNEAL_DEVICE __device__ __forceinline__
// The kernel's dynamic shared memory as `T* name`, aligned for every use; the launch says how much.
#define ANNEAL_DYNAMIC_SHARED(T, name)                                    \
  extern __shared__ __align__(1024) unsigned char anneal_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(anneal_dynamic_shared)
// An array `T name[count]` in shared memory.
#define ANNEAL_SHARED(T, name, count) __shared__ T name[count]

namespace anneal::cuda {

// An address in the window of shared memory.
using Shared = uint32_t;
ANNEAL_DEVICE Shared to_shared(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Four 8×8 matrices of 16-bit numbers; lane i gives the address of row i % 8 of matrix i / 8.
ANNEAL_DEVICE void ldmatrix_x4(uint32_t (&r)[4], Shared a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
ANNEAL_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], Shared a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}
ANNEAL_DEVICE void ldmatrix_x2(uint32_t (&r)[2], Shared a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(a) : "memory");
}
ANNEAL_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], Shared a) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(a) : "memory");
}

// d (16×8, f32) += a (16×16, bf16, row-major) b (16×8, bf16, column-major).
ANNEAL_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes from global to shared memory, asynchronously; zeros where !valid (the address must still be one of an array).
ANNEAL_DEVICE void cp_async_16(Shared to, const void* from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
// 8 bytes, the same.
ANNEAL_DEVICE void cp_async_8(Shared to, const void* from, bool valid = true) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(valid ? 8 : 0) : "memory");
}
ANNEAL_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's groups are under way. Other threads' copies need a barrier too.
template <int pending> ANNEAL_DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

// 16-byte accesses. In PTX on purpose: *(uint4*)p = v was seen to compile to four stores of 4 bytes.
ANNEAL_DEVICE uint4 load_global_16(const void* p) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(__cvta_generic_to_global(p)) : "memory");
  return v;
}
// For data that nothing writes during the launch and that is read once.
ANNEAL_DEVICE uint4 load_global_once_16(const void* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(__cvta_generic_to_global(p)));
  return v;
}
ANNEAL_DEVICE void store_global_16(void* p, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(p)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
ANNEAL_DEVICE uint4 load_shared_16(Shared a) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(a) : "memory");
  return v;
}
ANNEAL_DEVICE void store_shared_16(Shared a, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(a), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
ANNEAL_DEVICE uint32_t load_shared_4(Shared a) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(a) : "memory");
  return v;
}
ANNEAL_DEVICE void store_shared_4(Shared a, uint32_t v) { asm volatile("st.shared.u32 [%0], %1;" ::"r"(a), "r"(v) : "memory"); }

// 2^x, to 2 ulp.
ANNEAL_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Conversions to 16-bit floats round to nearest even; of a pair, `low` goes to the low half.
ANNEAL_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// Through a pair: ptxas 13.0 takes the 16-bit register of cvt.rn.bf16.f32 for a number, and converted it to an integer when its bytes were stored.
ANNEAL_DEVICE uint16_t to_bf16_bits(float x) { return static_cast<uint16_t>(pack_bf16(x, 0.0f)); }
ANNEAL_DEVICE uint16_t to_f16_bits(float x) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(0.0f), "f"(x));
  return static_cast<uint16_t>(r);
}
ANNEAL_DEVICE float from_f16_bits(uint16_t x) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x));
  return r;
}
// Any boolean function of three words, by its truth table.
template <int table> ANNEAL_DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(a), "r"(b), "r"(c), "n"(table));
  return r;
}
// Four bytes picked out of the eight of (b, a) by the nibbles of s.
ANNEAL_DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t s) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(s));
  return r;
}
// A barrier of `threads` threads (a multiple of 32) among barriers 1 … 15; __syncthreads() is barrier 0.
ANNEAL_DEVICE void named_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

}  // namespace anneal::cuda
#else
#include "../simt/emulator.h"
#endif
