// Bits, shifts, comparisons and selections.
#include <bit>
#include <cmath>

#include "ptx_assembler.h"

namespace anneal::simt::ptx {

namespace {

template <class U> U conjunction(U a, U b) { return static_cast<U>(a & b); }
template <class U> U disjunction(U a, U b) { return static_cast<U>(a | b); }
template <class U> U exclusive(U a, U b) { return static_cast<U>(a ^ b); }
template <class U> U complement(U a) { return static_cast<U>(~a); }
template <> bool complement(bool a) { return !a; }
template <class U> U logical_not(U a) { return a == 0; }
// Shifts clamp at the width.
template <class U> U shift_left(U a, uint32_t n) { return n >= 8 * sizeof(U) ? U{0} : static_cast<U>(a << n); }
template <class T> T shift_right(T a, uint32_t n) {
  constexpr uint32_t bits = 8 * sizeof(T);
  if (n >= bits) return a < 0 ? static_cast<T>(-1) : T{0};
  return static_cast<T>(a >> n);
}
uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t n) { return static_cast<uint32_t>(((uint64_t{high} << 32 | low) << n) >> 32); }
uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t n) { return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> n); }
uint32_t funnel_left_wrap(uint32_t low, uint32_t high, uint32_t n) { return funnel_left(low, high, n & 31); }
uint32_t funnel_left_clamp(uint32_t low, uint32_t high, uint32_t n) { return funnel_left(low, high, n < 32 ? n : 32); }
uint32_t funnel_right_wrap(uint32_t low, uint32_t high, uint32_t n) { return funnel_right(low, high, n & 31); }
uint32_t funnel_right_clamp(uint32_t low, uint32_t high, uint32_t n) { return funnel_right(low, high, n < 32 ? n : 32); }

uint32_t lookup(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
}
// Bit 3 of a selector repeats the sign of the byte that its low bits pick.
uint32_t permute(uint32_t a, uint32_t b, uint32_t selectors) {
  uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    uint32_t selector = selectors >> 4 * i & 15, byte = static_cast<uint32_t>(bytes >> 8 * (selector & 7)) & 0xff;
    if (selector & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << 8 * i;
  }
  return result;
}
template <class T> T extract(T a, uint32_t position, uint32_t length) {
  using U = std::make_unsigned_t<T>;
  constexpr uint32_t bits = 8 * sizeof(T);
  position &= 0xff;
  length &= 0xff;
  if (length == 0) return 0;
  uint32_t end = position + length - 1 < bits - 1 ? position + length - 1 : bits - 1;
  U field = position >= bits ? U{0} : static_cast<U>(static_cast<U>(a) >> position);
  U kept = length >= bits ? static_cast<U>(~U{0}) : static_cast<U>((U{1} << length) - 1);
  field &= kept;
  if (std::is_signed_v<T> && (static_cast<U>(a) >> end & 1)) {
    uint32_t have = position >= bits ? 0 : (bits - position < length ? bits - position : length);
    field |= have >= bits ? U{0} : static_cast<U>(~U{0} << have);
  }
  return static_cast<T>(field);
}
template <class U> U insert(U field, U into, uint32_t position, uint32_t length) {
  constexpr uint32_t bits = 8 * sizeof(U);
  position &= 0xff;
  length &= 0xff;
  if (position >= bits || length == 0) return into;
  U kept = length >= bits ? static_cast<U>(~U{0}) : static_cast<U>((U{1} << length) - 1);
  return static_cast<U>((into & ~(kept << position)) | ((field & kept) << position));
}
template <class U> uint32_t population(U a) { return static_cast<uint32_t>(std::popcount(a)); }
template <class U> uint32_t leading_zeros(U a) { return static_cast<uint32_t>(std::countl_zero(a)); }
template <class U> U reverse(U a) {
  U result = 0;
  for (size_t i = 0; i < 8 * sizeof(U); ++i) result = static_cast<U>(result << 1 | (a >> i & 1));
  return result;
}
template <class T> uint32_t highest_bit(T a) {
  using U = std::make_unsigned_t<T>;
  U bits = std::is_signed_v<T> && a < 0 ? static_cast<U>(~static_cast<U>(a)) : static_cast<U>(a);
  return bits ? static_cast<uint32_t>(8 * sizeof(T) - 1 - std::countl_zero(bits)) : ~0u;
}
// How far the highest bit must be shifted to come first.
template <class T> uint32_t highest_shift(T a) {
  uint32_t bit = highest_bit(a);
  return bit == ~0u ? bit : static_cast<uint32_t>(8 * sizeof(T)) - 1 - bit;
}
template <class U> U select(U a, U b, bool p) { return p ? a : b; }
template <class U, class C> U select_sign(U a, U b, C c) { return c >= 0 ? a : b; }

template <class T> bool eq(T a, T b) { return a == b; }
template <class T> bool ne(T a, T b) { return a < b || a > b; }  // of numbers, so that a NaN is not unequal
template <class T> bool lt(T a, T b) { return a < b; }
template <class T> bool le(T a, T b) { return a <= b; }
template <class T> bool gt(T a, T b) { return a > b; }
template <class T> bool ge(T a, T b) { return a >= b; }
template <class T> bool equ(T a, T b) { return !ne(a, b); }
template <class T> bool neu(T a, T b) { return !(a == b); }
template <class T> bool ltu(T a, T b) { return !(a >= b); }
template <class T> bool leu(T a, T b) { return !(a > b); }
template <class T> bool gtu(T a, T b) { return !(a <= b); }
template <class T> bool geu(T a, T b) { return !(a < b); }
template <class T> bool both_numbers(T a, T b) { return a == a && b == b; }
template <class T> bool any_nan(T a, T b) { return !both_numbers(a, b); }
template <class T, auto compare> bool compare_and(T a, T b, bool p) { return compare(a, b) && p; }
template <class T, auto compare> bool compare_or(T a, T b, bool p) { return compare(a, b) || p; }
template <class T, auto compare> bool compare_xor(T a, T b, bool p) { return compare(a, b) != p; }
template <class T> bool finite(T a) { return std::isfinite(a); }
template <class T> bool infinite(T a) { return std::isinf(a); }
template <class T> bool number(T a) { return !std::isnan(a); }
template <class T> bool not_number(T a) { return std::isnan(a); }

template <class T, auto compare> void add_comparison(Handlers& handlers, const std::string& name, const std::string& type) {
  handlers["setp." + name + "." + type] = handler<compare>();
  handlers["setp." + name + ".and." + type] = handler<compare_and<T, compare>>();
  handlers["setp." + name + ".or." + type] = handler<compare_or<T, compare>>();
  handlers["setp." + name + ".xor." + type] = handler<compare_xor<T, compare>>();
}
template <class T> void add_comparisons(Handlers& handlers, const std::string& type) {
  add_comparison<T, eq<T>>(handlers, "eq", type);
  add_comparison<T, ne<T>>(handlers, "ne", type);
  add_comparison<T, lt<T>>(handlers, "lt", type);
  add_comparison<T, le<T>>(handlers, "le", type);
  add_comparison<T, gt<T>>(handlers, "gt", type);
  add_comparison<T, ge<T>>(handlers, "ge", type);
  if constexpr (std::is_floating_point_v<T>) {
    add_comparison<T, equ<T>>(handlers, "equ", type);
    add_comparison<T, neu<T>>(handlers, "neu", type);
    add_comparison<T, ltu<T>>(handlers, "ltu", type);
    add_comparison<T, leu<T>>(handlers, "leu", type);
    add_comparison<T, gtu<T>>(handlers, "gtu", type);
    add_comparison<T, geu<T>>(handlers, "geu", type);
    add_comparison<T, both_numbers<T>>(handlers, "num", type);
    add_comparison<T, any_nan<T>>(handlers, "nan", type);
    handlers["testp.finite." + type] = handler<finite<T>>();
    handlers["testp.infinite." + type] = handler<infinite<T>>();
    handlers["testp.number." + type] = handler<number<T>>();
    handlers["testp.notanumber." + type] = handler<not_number<T>>();
  } else {
    add_comparison<T, lt<T>>(handlers, "lo", type);
    add_comparison<T, le<T>>(handlers, "ls", type);
    add_comparison<T, gt<T>>(handlers, "hi", type);
    add_comparison<T, ge<T>>(handlers, "hs", type);
  }
}

template <class U> void add_bits(Handlers& handlers, const std::string& bits) {
  using S = std::make_signed_t<U>;
  handlers["and.b" + bits] = handler<conjunction<U>>();
  handlers["or.b" + bits] = handler<disjunction<U>>();
  handlers["xor.b" + bits] = handler<exclusive<U>>();
  handlers["not.b" + bits] = handler<complement<U>>();
  handlers["cnot.b" + bits] = handler<logical_not<U>>();
  handlers["shl.b" + bits] = handler<shift_left<U>>();
  for (std::string type : {"u" + bits, "b" + bits}) {
    handlers["shr." + type] = handler<shift_right<U>>();
    add_comparisons<U>(handlers, type);
  }
  handlers["shr.s" + bits] = handler<shift_right<S>>();
  add_comparisons<S>(handlers, "s" + bits);
  for (std::string type : {"u" + bits, "s" + bits, "b" + bits, "f" + bits, "bf" + bits}) {
    handlers["selp." + type] = handler<select<U>>();
    handlers["slct." + type + ".s32"] = handler<select_sign<U, int32_t>>();
    handlers["slct." + type + ".f32"] = handler<select_sign<U, float>>();
  }
}
template <class U> void add_fields(Handlers& handlers, const std::string& bits) {
  using S = std::make_signed_t<U>;
  handlers["bfe.u" + bits] = handler<extract<U>>();
  handlers["bfe.s" + bits] = handler<extract<S>>();
  handlers["bfi.b" + bits] = handler<insert<U>>();
  handlers["popc.b" + bits] = handler<population<U>>();
  handlers["clz.b" + bits] = handler<leading_zeros<U>>();
  handlers["brev.b" + bits] = handler<reverse<U>>();
  handlers["bfind.u" + bits] = handler<highest_bit<U>>();
  handlers["bfind.s" + bits] = handler<highest_bit<S>>();
  handlers["bfind.shiftamt.u" + bits] = handler<highest_shift<U>>();
  handlers["bfind.shiftamt.s" + bits] = handler<highest_shift<S>>();
}

}  // namespace

void add_logic(Handlers& handlers) {
  add_bits<uint16_t>(handlers, "16");
  add_bits<uint32_t>(handlers, "32");
  add_bits<uint64_t>(handlers, "64");
  add_fields<uint32_t>(handlers, "32");
  add_fields<uint64_t>(handlers, "64");
  add_comparisons<float>(handlers, "f32");
  add_comparisons<double>(handlers, "f64");
  handlers["and.pred"] = handler<conjunction<bool>>();
  handlers["or.pred"] = handler<disjunction<bool>>();
  handlers["xor.pred"] = handler<exclusive<bool>>();
  handlers["not.pred"] = handler<complement<bool>>();
  handlers["lop3.b32"] = handler<lookup>();
  handlers["prmt.b32"] = handler<permute>();
  handlers["shf.l.wrap.b32"] = handler<funnel_left_wrap>();
  handlers["shf.l.clamp.b32"] = handler<funnel_left_clamp>();
  handlers["shf.r.wrap.b32"] = handler<funnel_right_wrap>();
  handlers["shf.r.clamp.b32"] = handler<funnel_right_clamp>();
}

}  // namespace anneal::simt::ptx
