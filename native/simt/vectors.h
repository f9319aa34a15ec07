// CUDA's vector types, for a C++ compiler.
#pragma once
#include <cstdint>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define ANNEAL_SIMT_VECTORS(name, type, alignment2, alignment4)                                                \
  struct name##1 { type x; };                                                                                  \
  struct alignas(alignment2) name##2 { type x, y; };                                                           \
  struct name##3 { type x, y, z; };                                                                            \
  struct alignas(alignment4) name##4 { type x, y, z, w; };                                                     \
  constexpr name##1 make_##name##1(type x) { return {x}; }                                                     \
  constexpr name##2 make_##name##2(type x, type y) { return {x, y}; }                                          \
  constexpr name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                               \
  constexpr name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

ANNEAL_SIMT_VECTORS(char, signed char, 2, 4)
ANNEAL_SIMT_VECTORS(uchar, unsigned char, 2, 4)
ANNEAL_SIMT_VECTORS(short, short, 4, 8)
ANNEAL_SIMT_VECTORS(ushort, unsigned short, 4, 8)
ANNEAL_SIMT_VECTORS(int, int, 8, 16)
ANNEAL_SIMT_VECTORS(uint, unsigned, 8, 16)
ANNEAL_SIMT_VECTORS(float, float, 8, 16)
ANNEAL_SIMT_VECTORS(longlong, long long, 16, 16)
ANNEAL_SIMT_VECTORS(ulonglong, unsigned long long, 16, 16)
ANNEAL_SIMT_VECTORS(double, double, 16, 16)
#undef ANNEAL_SIMT_VECTORS
