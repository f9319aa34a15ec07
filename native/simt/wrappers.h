// The emulator's side of native/cuda/simt.h: what needs PTX on a GPU.
#pragma once
#include "intrinsics.h"

namespace anneal::simt {

// Each lane's operands of a warp-wide matrix instruction.
struct LoadMatrix {
  const void* row;
  uint32_t* result;
};
struct MultiplyMatrices {
  float* d;
  const uint32_t* a;
  uint32_t b0, b1;
};
void apply_ldmatrix_x4(void** operands, uint32_t mask);
void apply_ldmatrix_x4_trans(void** operands, uint32_t mask);
void apply_ldmatrix_x2(void** operands, uint32_t mask);
void apply_ldmatrix_x2_trans(void** operands, uint32_t mask);
void apply_mma_bf16(void** operands, uint32_t mask);

}  // namespace anneal::simt

namespace anneal::cuda {

// An address in the window of shared memory: a number in PTX, so it adds and swizzles like one.
struct Shared {
  unsigned char* at;
  Shared() = default;
  explicit Shared(const void* p) : at(static_cast<unsigned char*>(const_cast<void*>(p))) {}
  Shared operator+(ptrdiff_t bytes) const { return Shared(at + bytes); }
  Shared operator-(ptrdiff_t bytes) const { return Shared(at - bytes); }
  Shared operator^(uintptr_t bits) const { return Shared(reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(at) ^ bits)); }
  Shared& operator+=(ptrdiff_t bytes) { return at += bytes, *this; }
  Shared& operator-=(ptrdiff_t bytes) { return at -= bytes, *this; }
  Shared& operator^=(uintptr_t bits) { return *this = *this ^ bits; }
};
inline Shared to_shared(const void* p) { return Shared(p); }

ANNEAL_SIMT_INLINE uint32_t arrive(uint32_t* counter, uint32_t count) {
  const uint32_t before = atomicInc(counter, count - 1);
  simt::block_arrived(counter, before == count - 1);
  return before;
}

#define ANNEAL_SIMT_LDMATRIX(name, count)                                                                           \
  ANNEAL_SIMT_INLINE void name(uint32_t (&r)[count], Shared row, simt::Site site = simt::Site::here()) {            \
    simt::LoadMatrix operand{row.at, r};                                                                            \
    simt::collective(simt::Collective::ldmatrix, ~0u, &operand, simt::apply_##name, #name, site);                    \
  }
ANNEAL_SIMT_LDMATRIX(ldmatrix_x4, 4)
ANNEAL_SIMT_LDMATRIX(ldmatrix_x4_trans, 4)
ANNEAL_SIMT_LDMATRIX(ldmatrix_x2, 2)
ANNEAL_SIMT_LDMATRIX(ldmatrix_x2_trans, 2)
#undef ANNEAL_SIMT_LDMATRIX

ANNEAL_SIMT_INLINE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, simt::Site site = simt::Site::here()) {
  simt::MultiplyMatrices operand{d, a, b0, b1};
  simt::collective(simt::Collective::mma, ~0u, &operand, simt::apply_mma_bf16, "mma_bf16", site);
}

ANNEAL_SIMT_INLINE void cp_async_16(Shared to, const void* from, bool valid = true, simt::Site site = simt::Site::here()) {
  simt::copy_async(to.at, from, 16, valid, site);
}
ANNEAL_SIMT_INLINE void cp_async_8(Shared to, const void* from, bool valid = true, simt::Site site = simt::Site::here()) {
  simt::copy_async(to.at, from, 8, valid, site);
}
inline void cp_async_commit() { simt::copy_async_commit(); }
template <int pending> inline void cp_async_wait() { simt::copy_async_wait(pending); }

ANNEAL_SIMT_INLINE uint4 load_global_16(const void* p, simt::Site site = simt::Site::here()) {
  uint4 v;
  simt::load(&v, p, 16, site);
  return v;
}
ANNEAL_SIMT_INLINE uint4 load_global_once_16(const void* p, simt::Site site = simt::Site::here()) { return load_global_16(p, site); }
ANNEAL_SIMT_INLINE void store_global_16(void* p, uint4 v, simt::Site site = simt::Site::here()) { simt::store(p, &v, 16, site); }
ANNEAL_SIMT_INLINE uint4 load_shared_16(Shared from, simt::Site site = simt::Site::here()) { return load_global_16(from.at, site); }
ANNEAL_SIMT_INLINE void store_shared_16(Shared to, uint4 v, simt::Site site = simt::Site::here()) { simt::store(to.at, &v, 16, site); }
ANNEAL_SIMT_INLINE uint32_t load_shared_4(Shared from, simt::Site site = simt::Site::here()) {
  uint32_t v;
  simt::load(&v, from.at, 4, site);
  return v;
}
ANNEAL_SIMT_INLINE void store_shared_4(Shared to, uint32_t v, simt::Site site = simt::Site::here()) { simt::store(to.at, &v, 4, site); }

inline float exp2_fast(float x) { return std::exp2(x); }

inline uint16_t to_bf16_bits(float x) {
  uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
inline uint32_t pack_bf16(float low, float high) { return to_bf16_bits(low) | static_cast<uint32_t>(to_bf16_bits(high)) << 16; }
inline uint16_t to_f16_bits(float x) { return std::bit_cast<uint16_t>(static_cast<_Float16>(x)); }
inline float from_f16_bits(uint16_t x) { return static_cast<float>(std::bit_cast<_Float16>(x)); }

template <int table> inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
}
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t s) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = s >> 4 * i & 0xf;
    uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (selector & 7)) & 0xff;
    if (selector & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << 8 * i;
  }
  return result;
}
ANNEAL_SIMT_INLINE void named_barrier(int id, int threads, simt::Site site = simt::Site::here()) { simt::barrier(id, threads, "named_barrier", site); }

}  // namespace anneal::cuda

// Unlike prmt, CUDA's intrinsic has no bit that replicates the sign: nvcc masks the selector with 0x7777.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) { return anneal::cuda::prmt(a, b, s & 0x7777u); }
