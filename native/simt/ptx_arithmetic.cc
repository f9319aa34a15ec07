// Arithmetic of integers and floats. Approximate instructions compute the exact function: their error is the hardware's own.
#include <bit>
#include <cfenv>
#include <cmath>

#include "ptx_assembler.h"
#include "ptx_numbers.h"

namespace anneal::simt::ptx {

namespace {

// ---- integers; U is unsigned, so that overflow wraps
template <class U> U add(U a, U b) { return static_cast<U>(a + b); }
template <class U> U subtract(U a, U b) { return static_cast<U>(a - b); }
template <class U> U multiply(U a, U b) { return static_cast<U>(uint64_t{a} * b); }
template <class U> U multiply_add(U a, U b, U c) { return static_cast<U>(uint64_t{a} * b + c); }
template <class T, class Wide> Wide multiply_wide(T a, T b) { return static_cast<Wide>(static_cast<Wide>(a) * static_cast<Wide>(b)); }
template <class T, class Wide> std::make_unsigned_t<Wide> multiply_add_wide(T a, T b, std::make_unsigned_t<Wide> c) {
  return static_cast<std::make_unsigned_t<Wide>>(multiply_wide<T, Wide>(a, b)) + c;
}
template <class T> struct Double;
template <> struct Double<uint16_t> { using type = uint32_t; };
template <> struct Double<int16_t> { using type = int32_t; };
template <> struct Double<uint32_t> { using type = uint64_t; };
template <> struct Double<int32_t> { using type = int64_t; };
template <> struct Double<uint64_t> { using type = unsigned __int128; };
template <> struct Double<int64_t> { using type = __int128; };
template <class T> T multiply_high(T a, T b) { return static_cast<T>((static_cast<typename Double<T>::type>(a) * static_cast<typename Double<T>::type>(b)) >> (8 * sizeof(T))); }
template <class T> T multiply_high_add(T a, T b, T c) { return static_cast<T>(static_cast<std::make_unsigned_t<T>>(multiply_high(a, b)) + static_cast<std::make_unsigned_t<T>>(c)); }
// What the hardware gives for a division by zero is not specified; all bits set is what it does give.
template <class T> T divide(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a));
  return static_cast<T>(a / b);
}
template <class T> T remainder(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}
template <class T> T minimum(T a, T b) { return a < b ? a : b; }
template <class T> T maximum(T a, T b) { return a > b ? a : b; }
template <class U> U negate(U a) { return static_cast<U>(0 - a); }
template <class T> T absolute(T a) { return a < 0 ? static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a)) : a; }
template <class T> uint32_t sum_of_differences(T a, T b, uint32_t c) { return c + (a > b ? static_cast<uint32_t>(a) - static_cast<uint32_t>(b) : static_cast<uint32_t>(b) - static_cast<uint32_t>(a)); }
template <class A, class B> uint32_t dot_bytes(uint32_t a, uint32_t b, uint32_t c) {
  for (int i = 0; i < 4; ++i) c += static_cast<uint32_t>(static_cast<int32_t>(static_cast<A>(a >> 8 * i)) * static_cast<int32_t>(static_cast<B>(b >> 8 * i)));
  return c;
}

// With the carry of the lane, going in, coming out or both.
template <class U, bool carry_in, bool carry_out, bool subtraction> void run_add_carry(Warp& warp, const Instruction& instruction, uint32_t active) {
  each_lane(active, [&](int lane) {
    U a = warp.row<U>(instruction.at[1])[lane], b = warp.row<U>(instruction.at[2])[lane];
    bool in = carry_in && (warp.carry >> lane & 1);
    unsigned __int128 wide = subtraction ? static_cast<unsigned __int128>(a) - b - in : static_cast<unsigned __int128>(a) + b + in;
    warp.row<U>(instruction.at[0])[lane] = static_cast<U>(wide);
    if (carry_out) warp.carry = (warp.carry & ~(1u << lane)) | static_cast<uint32_t>(wide >> (8 * sizeof(U)) & 1) << lane;
  });
}
template <class U, bool carry_in, bool carry_out, bool high> void run_multiply_carry(Warp& warp, const Instruction& instruction, uint32_t active) {
  each_lane(active, [&](int lane) {
    U a = warp.row<U>(instruction.at[1])[lane], b = warp.row<U>(instruction.at[2])[lane], c = warp.row<U>(instruction.at[3])[lane];
    U product = high ? multiply_high(a, b) : multiply(a, b);
    unsigned __int128 wide = static_cast<unsigned __int128>(product) + c + (carry_in && (warp.carry >> lane & 1));
    warp.row<U>(instruction.at[0])[lane] = static_cast<U>(wide);
    if (carry_out) warp.carry = (warp.carry & ~(1u << lane)) | static_cast<uint32_t>(wide >> (8 * sizeof(U)) & 1) << lane;
  });
}

// ---- floats
template <class T> T divide_float(T a, T b) { return a / b; }
template <class T> T reciprocal(T a) { return 1 / a; }
template <class T> T fused(T a, T b, T c) { return std::fma(a, b, c); }
template <class T> T square_root(T a) { return std::sqrt(a); }
template <class T> T reciprocal_root(T a) { return 1 / std::sqrt(a); }
template <class T> T negate_float(T a) { return -a; }
template <class T> T absolute_float(T a) { return std::fabs(a); }
// The first argument gives the sign.
template <class T> T copy_sign(T a, T b) { return std::copysign(b, a); }
template <class T> T add_float(T a, T b) { return a + b; }
template <class T> T subtract_float(T a, T b) { return a - b; }
template <class T> T multiply_float(T a, T b) { return a * b; }
// A NaN loses against a number; +0 counts as more than -0.
template <class T> T minimum_float(T a, T b) {
  if (std::isnan(a)) return b;
  if (std::isnan(b)) return a;
  return a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
}
template <class T> T maximum_float(T a, T b) {
  if (std::isnan(a)) return b;
  if (std::isnan(b)) return a;
  return a == b ? (std::signbit(a) ? b : a) : a > b ? a : b;
}
template <class T> T minimum_nan(T a, T b) { return std::isnan(a) || std::isnan(b) ? static_cast<T>(NAN) : minimum_float(a, b); }
template <class T> T maximum_nan(T a, T b) { return std::isnan(a) || std::isnan(b) ? static_cast<T>(NAN) : maximum_float(a, b); }
float power_of_two(float a) { return std::exp2(a); }
float logarithm(float a) { return std::log2(a); }
float sine(float a) { return std::sin(a); }
float cosine(float a) { return std::cos(a); }
float hyperbolic_tangent(float a) { return std::tanh(a); }
// Only the upper half of the result's bits; the code around it refines them.
double rough_reciprocal(double a) { return std::bit_cast<double>(std::bit_cast<uint64_t>(1 / a) & 0xffffffff00000000u); }
double rough_reciprocal_root(double a) { return std::bit_cast<double>(std::bit_cast<uint64_t>(1 / std::sqrt(a)) & 0xffffffff00000000u); }

float flush(float a) { return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(0.0f, a) : a; }
template <auto f> float flushed_1(float a) { return flush(f(flush(a))); }
template <auto f> float flushed_2(float a, float b) { return flush(f(flush(a), flush(b))); }
template <auto f> float flushed_3(float a, float b, float c) { return flush(f(flush(a), flush(b), flush(c))); }
template <auto f> float saturated_2(float a, float b) { return saturate(f(a, b)); }
template <auto f> float saturated_3(float a, float b, float c) { return saturate(f(a, b, c)); }

// In another rounding than to nearest. Volatile keeps the operation between the two changes of the mode.
template <int mode, auto f, class T> T rounded_2(T a, T b) {
  volatile T x = a, y = b;
  std::fesetround(mode);
  volatile T result = f(x, y);
  std::fesetround(FE_TONEAREST);
  return result;
}
template <int mode, class T> T rounded_fused(T a, T b, T c) {
  volatile T x = a, y = b, z = c;
  std::fesetround(mode);
  volatile T result = std::fma(static_cast<T>(x), static_cast<T>(y), static_cast<T>(z));
  std::fesetround(FE_TONEAREST);
  return result;
}

// ---- 16-bit floats, alone and in pairs: computed in float and rounded once, which is exact for these operations
template <auto from, auto to, auto f> uint16_t half_1(uint16_t a) { return to(f(from(a))); }
template <auto from, auto to, auto f> uint16_t half_2(uint16_t a, uint16_t b) { return to(f(from(a), from(b))); }
template <auto from, auto to> uint16_t half_fused(uint16_t a, uint16_t b, uint16_t c) {
  // The product is exact in double, the sum nearly: it is rounded to odd so that the second rounding sees what was lost.
  double product = static_cast<double>(from(a)) * from(b), addend = from(c), sum = product + addend;
  double part = sum - product, lost = (product - (sum - part)) + (addend - part);
  if (lost != 0 && !(std::bit_cast<uint64_t>(sum) & 1)) sum = std::nextafter(sum, lost > 0 ? INFINITY : -INFINITY);
  return to(round_to_odd(sum));
}
template <auto f> uint32_t pair_1(uint32_t a) { return static_cast<uint32_t>(f(static_cast<uint16_t>(a))) | static_cast<uint32_t>(f(static_cast<uint16_t>(a >> 16))) << 16; }
template <auto f> uint32_t pair_2(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(f(static_cast<uint16_t>(a), static_cast<uint16_t>(b))) | static_cast<uint32_t>(f(static_cast<uint16_t>(a >> 16), static_cast<uint16_t>(b >> 16))) << 16;
}
template <auto f> uint32_t pair_3(uint32_t a, uint32_t b, uint32_t c) {
  return static_cast<uint32_t>(f(static_cast<uint16_t>(a), static_cast<uint16_t>(b), static_cast<uint16_t>(c))) |
         static_cast<uint32_t>(f(static_cast<uint16_t>(a >> 16), static_cast<uint16_t>(b >> 16), static_cast<uint16_t>(c >> 16))) << 16;
}

template <class U> void add_integers(Handlers& handlers, const std::string& bits) {
  using S = std::make_signed_t<U>;
  for (std::string type : {"u" + bits, "s" + bits, "b" + bits}) {
    handlers["add." + type] = handler<add<U>>();
    handlers["sub." + type] = handler<subtract<U>>();
    handlers["mul.lo." + type] = handler<multiply<U>>();
    handlers["mad.lo." + type] = handler<multiply_add<U>>();
    handlers["neg." + type] = handler<negate<U>>();
    handlers["add.cc." + type] = {run_add_carry<U, false, true, false>, {sizeof(U), sizeof(U), sizeof(U)}};
    handlers["addc." + type] = {run_add_carry<U, true, false, false>, {sizeof(U), sizeof(U), sizeof(U)}};
    handlers["addc.cc." + type] = {run_add_carry<U, true, true, false>, {sizeof(U), sizeof(U), sizeof(U)}};
    handlers["sub.cc." + type] = {run_add_carry<U, false, true, true>, {sizeof(U), sizeof(U), sizeof(U)}};
    handlers["subc." + type] = {run_add_carry<U, true, false, true>, {sizeof(U), sizeof(U), sizeof(U)}};
    handlers["subc.cc." + type] = {run_add_carry<U, true, true, true>, {sizeof(U), sizeof(U), sizeof(U)}};
  }
  const std::vector<int> four(4, sizeof(U));
  handlers["mad.lo.cc.u" + bits] = {run_multiply_carry<U, false, true, false>, four};
  handlers["mad.hi.cc.u" + bits] = {run_multiply_carry<U, false, true, true>, four};
  handlers["madc.lo.u" + bits] = {run_multiply_carry<U, true, false, false>, four};
  handlers["madc.hi.u" + bits] = {run_multiply_carry<U, true, false, true>, four};
  handlers["madc.lo.cc.u" + bits] = {run_multiply_carry<U, true, true, false>, four};
  handlers["madc.hi.cc.u" + bits] = {run_multiply_carry<U, true, true, true>, four};
  handlers["mul.hi.u" + bits] = handler<multiply_high<U>>();
  handlers["mul.hi.s" + bits] = handler<multiply_high<S>>();
  handlers["mad.hi.u" + bits] = handler<multiply_high_add<U>>();
  handlers["mad.hi.s" + bits] = handler<multiply_high_add<S>>();
  handlers["div.u" + bits] = handler<divide<U>>();
  handlers["div.s" + bits] = handler<divide<S>>();
  handlers["rem.u" + bits] = handler<remainder<U>>();
  handlers["rem.s" + bits] = handler<remainder<S>>();
  handlers["min.u" + bits] = handler<minimum<U>>();
  handlers["min.s" + bits] = handler<minimum<S>>();
  handlers["max.u" + bits] = handler<maximum<U>>();
  handlers["max.s" + bits] = handler<maximum<S>>();
  handlers["abs.s" + bits] = handler<absolute<S>>();
}

template <class T> void add_floats(Handlers& handlers, const std::string& type) {
  handlers["add." + type] = handler<add_float<T>>();
  handlers["sub." + type] = handler<subtract_float<T>>();
  handlers["mul." + type] = handler<multiply_float<T>>();
  handlers["fma." + type] = handlers["mad." + type] = handler<fused<T>>();
  handlers["div." + type] = handler<divide_float<T>>();
  handlers["sqrt." + type] = handler<square_root<T>>();
  handlers["neg." + type] = handler<negate_float<T>>();
  handlers["abs." + type] = handler<absolute_float<T>>();
  handlers["copysign." + type] = handler<copy_sign<T>>();
  handlers["min." + type] = handler<minimum_float<T>>();
  handlers["max." + type] = handler<maximum_float<T>>();
  handlers["add.rz." + type] = handler<rounded_2<FE_TOWARDZERO, add_float<T>, T>>();
  handlers["add.rm." + type] = handler<rounded_2<FE_DOWNWARD, add_float<T>, T>>();
  handlers["add.rp." + type] = handler<rounded_2<FE_UPWARD, add_float<T>, T>>();
  handlers["mul.rz." + type] = handler<rounded_2<FE_TOWARDZERO, multiply_float<T>, T>>();
  handlers["mul.rm." + type] = handler<rounded_2<FE_DOWNWARD, multiply_float<T>, T>>();
  handlers["mul.rp." + type] = handler<rounded_2<FE_UPWARD, multiply_float<T>, T>>();
  handlers["fma.rz." + type] = handler<rounded_fused<FE_TOWARDZERO, T>>();
  handlers["fma.rm." + type] = handler<rounded_fused<FE_DOWNWARD, T>>();
  handlers["fma.rp." + type] = handler<rounded_fused<FE_UPWARD, T>>();
}

template <auto from, auto to> void add_halves(Handlers& handlers, const std::string& type) {
  handlers["add." + type] = handler<half_2<from, to, add_float<float>>>();
  handlers["sub." + type] = handler<half_2<from, to, subtract_float<float>>>();
  handlers["mul." + type] = handler<half_2<from, to, multiply_float<float>>>();
  handlers["min." + type] = handler<half_2<from, to, minimum_float<float>>>();
  handlers["max." + type] = handler<half_2<from, to, maximum_float<float>>>();
  handlers["fma." + type] = handler<half_fused<from, to>>();
  handlers["neg." + type] = handler<half_1<from, to, negate_float<float>>>();
  handlers["abs." + type] = handler<half_1<from, to, absolute_float<float>>>();
  handlers["add." + type + "x2"] = handler<pair_2<half_2<from, to, add_float<float>>>>();
  handlers["sub." + type + "x2"] = handler<pair_2<half_2<from, to, subtract_float<float>>>>();
  handlers["mul." + type + "x2"] = handler<pair_2<half_2<from, to, multiply_float<float>>>>();
  handlers["min." + type + "x2"] = handler<pair_2<half_2<from, to, minimum_float<float>>>>();
  handlers["max." + type + "x2"] = handler<pair_2<half_2<from, to, maximum_float<float>>>>();
  handlers["fma." + type + "x2"] = handler<pair_3<half_fused<from, to>>>();
  handlers["neg." + type + "x2"] = handler<pair_1<half_1<from, to, negate_float<float>>>>();
  handlers["abs." + type + "x2"] = handler<pair_1<half_1<from, to, absolute_float<float>>>>();
}

}  // namespace

void add_arithmetic(Handlers& handlers) {
  add_integers<uint16_t>(handlers, "16");
  add_integers<uint32_t>(handlers, "32");
  add_integers<uint64_t>(handlers, "64");
  handlers["mul.wide.u16"] = handler<multiply_wide<uint16_t, uint32_t>>();
  handlers["mul.wide.s16"] = handler<multiply_wide<int16_t, int32_t>>();
  handlers["mul.wide.u32"] = handler<multiply_wide<uint32_t, uint64_t>>();
  handlers["mul.wide.s32"] = handler<multiply_wide<int32_t, int64_t>>();
  handlers["mad.wide.u16"] = handler<multiply_add_wide<uint16_t, uint32_t>>();
  handlers["mad.wide.s16"] = handler<multiply_add_wide<int16_t, int32_t>>();
  handlers["mad.wide.u32"] = handler<multiply_add_wide<uint32_t, uint64_t>>();
  handlers["mad.wide.s32"] = handler<multiply_add_wide<int32_t, int64_t>>();
  handlers["sad.u32"] = handler<sum_of_differences<uint32_t>>();
  handlers["sad.s32"] = handler<sum_of_differences<int32_t>>();
  handlers["dp4a.u32.u32"] = handler<dot_bytes<uint8_t, uint8_t>>();
  handlers["dp4a.u32.s32"] = handler<dot_bytes<uint8_t, int8_t>>();
  handlers["dp4a.s32.u32"] = handler<dot_bytes<int8_t, uint8_t>>();
  handlers["dp4a.s32.s32"] = handler<dot_bytes<int8_t, int8_t>>();

  add_floats<float>(handlers, "f32");
  add_floats<double>(handlers, "f64");
  handlers["rcp.f32"] = handler<reciprocal<float>>();
  handlers["rcp.f64"] = handler<reciprocal<double>>();
  handlers["rcp.ftz.f64"] = handler<rough_reciprocal>();
  handlers["rsqrt.f32"] = handler<reciprocal_root<float>>();
  handlers["rsqrt.f64"] = handler<reciprocal_root<double>>();
  handlers["rsqrt.ftz.f64"] = handler<rough_reciprocal_root>();
  handlers["ex2.f32"] = handler<power_of_two>();
  handlers["lg2.f32"] = handler<logarithm>();
  handlers["sin.f32"] = handler<sine>();
  handlers["cos.f32"] = handler<cosine>();
  handlers["tanh.f32"] = handler<hyperbolic_tangent>();
  handlers["min.NaN.f32"] = handler<minimum_nan<float>>();
  handlers["max.NaN.f32"] = handler<maximum_nan<float>>();
  handlers["add.sat.f32"] = handler<saturated_2<add_float<float>>>();
  handlers["mul.sat.f32"] = handler<saturated_2<multiply_float<float>>>();
  handlers["fma.sat.f32"] = handler<saturated_3<fused<float>>>();
  handlers["add.ftz.f32"] = handler<flushed_2<add_float<float>>>();
  handlers["sub.ftz.f32"] = handler<flushed_2<subtract_float<float>>>();
  handlers["mul.ftz.f32"] = handler<flushed_2<multiply_float<float>>>();
  handlers["div.ftz.f32"] = handler<flushed_2<divide_float<float>>>();
  handlers["min.ftz.f32"] = handler<flushed_2<minimum_float<float>>>();
  handlers["max.ftz.f32"] = handler<flushed_2<maximum_float<float>>>();
  handlers["fma.ftz.f32"] = handler<flushed_3<fused<float>>>();
  handlers["rcp.ftz.f32"] = handler<flushed_1<reciprocal<float>>>();
  handlers["sqrt.ftz.f32"] = handler<flushed_1<square_root<float>>>();
  handlers["rsqrt.ftz.f32"] = handler<flushed_1<reciprocal_root<float>>>();
  handlers["ex2.ftz.f32"] = handler<flushed_1<power_of_two>>();
  handlers["lg2.ftz.f32"] = handler<flushed_1<logarithm>>();
  handlers["sin.ftz.f32"] = handler<flushed_1<sine>>();
  handlers["cos.ftz.f32"] = handler<flushed_1<cosine>>();
  handlers["neg.ftz.f32"] = handler<flushed_1<negate_float<float>>>();
  handlers["abs.ftz.f32"] = handler<flushed_1<absolute_float<float>>>();

  add_halves<from_f16, to_f16>(handlers, "f16");
  add_halves<from_bf16, to_bf16>(handlers, "bf16");
}

}  // namespace anneal::simt::ptx
