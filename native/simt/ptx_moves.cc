// Moves between registers, packed or not, and conversions between types.
#include <cmath>

#include "ptx_assembler.h"
#include "ptx_numbers.h"

namespace anneal::simt::ptx {

namespace {

template <class T> void run_copy(Warp& warp, const Instruction& instruction, uint32_t active) {
  T* to = warp.row<T>(instruction.at[0]);
  const T* from = warp.row<T>(instruction.at[1]);
  each_lane(active, [&](int lane) { to[lane] = from[lane]; });
}
void run_copy_predicate(Warp& warp, const Instruction& instruction, uint32_t active) {
  uint32_t& mask = warp.mask(instruction.at[0]);
  uint32_t from = warp.mask(instruction.at[1]);
  mask = (mask & ~active) | ((instruction.negated >> 1 & 1 ? ~from : from) & active);
}
// width[0]: of the whole; width[1]: of a part; extra: the number of parts, which follow the whole in `at`.
void run_pack(Warp& warp, const Instruction& instruction, uint32_t active) {
  int part = instruction.width[1];
  each_lane(active, [&](int lane) {
    uint64_t whole = 0;
    for (uint32_t i = 0; i < instruction.extra; ++i) whole |= warp.read(instruction.at[1 + i], part, lane) << (8 * part * i);
    warp.write(instruction.at[0], instruction.width[0], lane, whole);
  });
}
void run_unpack(Warp& warp, const Instruction& instruction, uint32_t active) {
  int part = instruction.width[1];
  each_lane(active, [&](int lane) {
    uint64_t whole = warp.read(instruction.at[0], instruction.width[0], lane);
    for (uint32_t i = 0; i < instruction.extra; ++i) warp.write(instruction.at[1 + i], part, lane, whole >> (8 * part * i));
  });
}

void encode_move(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  auto types = statement.types();
  if (types.size() != 1 || statement.operands.size() != 2) fail("%s: a move of this form is not known to the interpreter", statement.text.c_str());
  int bytes = size_of(types[0]);
  const Operand &to = statement.operands[0], &from = statement.operands[1];
  if (to.kind == Operand::Kind::list || from.kind == Operand::Kind::list) {
    bool packs = from.kind == Operand::Kind::list;
    const auto& parts = packs ? from.parts : to.parts;
    instruction.extra = static_cast<uint32_t>(parts.size());
    instruction.width[0] = static_cast<uint8_t>(bytes);
    instruction.width[1] = static_cast<uint8_t>(bytes / parts.size());
    instruction.at[0] = assembler.row(packs ? to : from, bytes);
    for (size_t i = 0; i < parts.size(); ++i) instruction.at[1 + i] = assembler.row(parts[i], instruction.width[1]);
    instruction.run = packs ? run_pack : run_unpack;
    return;
  }
  instruction.at[0] = assembler.row(to, bytes);
  instruction.at[1] = assembler.row(from, bytes);
  instruction.negated = static_cast<uint8_t>(from.negated << 1);
  instruction.run = bytes == 0 ? run_copy_predicate : bytes == 2 ? run_copy<uint16_t> : bytes == 4 ? run_copy<uint32_t> : run_copy<uint64_t>;
}

// ---- cvt: width[0], width[1] are the registers', which may be wider than the types; extra: the types; more: the rounding and .sat
enum Rounding : uint32_t { nearest, toward_zero, down, up, integer = 4, saturating = 8 };

// Exact for every source: x86's long double holds 64 bits, and the wider ones of other machines more.
long double round_to(long double value, uint32_t rounding) {
  switch (rounding & 3) {
    case toward_zero: return std::trunc(value);
    case down: return std::floor(value);
    case up: return std::ceil(value);
    default: return std::nearbyint(value);
  }
}
float to_float(long double value, uint32_t rounding) {
  float near = static_cast<float>(value);
  uint32_t mode = rounding & 3;
  if (!std::isfinite(value) || static_cast<long double>(near) == value || mode == nearest) return near;
  bool above = static_cast<long double>(near) > value, wants_above = mode == up || (mode == toward_zero && value < 0);
  return above == wants_above ? near : std::nextafter(near, wants_above ? INFINITY : -INFINITY);
}

uint64_t from_integer(long double value, Type type) {
  if (std::isnan(value)) return type == Type::u64 || type == Type::s64 ? uint64_t{1} << 63 : 0;
  int bits = 8 * size_of(type);
  bool with_sign = is_signed(type);
  long double lowest = with_sign ? -std::ldexp(1.0L, bits - 1) : 0.0L, highest = std::ldexp(1.0L, with_sign ? bits - 1 : bits) - 1;
  value = value < lowest ? lowest : value > highest ? highest : value;
  return with_sign ? static_cast<uint64_t>(static_cast<int64_t>(value)) : static_cast<uint64_t>(value);
}

int64_t extended(uint64_t bits, Type type) {
  switch (type) {
    case Type::s8: return static_cast<int8_t>(bits);
    case Type::s16: return static_cast<int16_t>(bits);
    case Type::s32: return static_cast<int32_t>(bits);
    case Type::u8: case Type::b8: return static_cast<uint8_t>(bits);
    case Type::u16: case Type::b16: return static_cast<uint16_t>(bits);
    case Type::u32: case Type::b32: return static_cast<uint32_t>(bits);
    default: return static_cast<int64_t>(bits);
  }
}

uint64_t convert(uint64_t bits, Type to, Type from, uint32_t mode) {
  if (!is_float(to) && !is_float(from)) {
    int64_t value = extended(bits, from);
    if (!(mode & saturating)) return static_cast<uint64_t>(extended(static_cast<uint64_t>(value), to));
    return from_integer(is_signed(from) ? static_cast<long double>(value) : static_cast<long double>(static_cast<uint64_t>(value)), to);
  }
  long double value;
  switch (from) {
    case Type::f16: value = from_f16(static_cast<uint16_t>(bits)); break;
    case Type::bf16: value = from_bf16(static_cast<uint16_t>(bits)); break;
    case Type::f32: value = std::bit_cast<float>(static_cast<uint32_t>(bits)); break;
    case Type::f64: value = std::bit_cast<double>(bits); break;
    default: value = is_signed(from) ? static_cast<long double>(extended(bits, from)) : static_cast<long double>(static_cast<uint64_t>(extended(bits, from)));
  }
  if (!is_float(to)) return from_integer(std::isnan(value) ? value : round_to(value, mode), to);
  if (is_float(from) && (mode & integer)) value = round_to(value, mode);
  if (mode & saturating) value = value > 0 ? (value < 1 ? value : 1) : 0;
  switch (to) {
    case Type::f16: return to_f16(round_to_odd(static_cast<double>(value)));
    case Type::bf16: return to_bf16(round_to_odd(static_cast<double>(value)));
    case Type::f32: return std::bit_cast<uint32_t>(to_float(value, mode));
    default: return std::bit_cast<uint64_t>(static_cast<double>(value));
  }
}

void run_convert(Warp& warp, const Instruction& instruction, uint32_t active) {
  Type to = static_cast<Type>(instruction.extra & 0xff), from = static_cast<Type>(instruction.extra >> 8);
  each_lane(active, [&](int lane) { warp.write(instruction.at[0], instruction.width[0], lane, convert(warp.read(instruction.at[1], instruction.width[1], lane), to, from, instruction.more)); });
}
template <auto to_half, bool relu> void run_convert_pair(Warp& warp, const Instruction& instruction, uint32_t active) {
  auto half = [](float value) { return static_cast<uint32_t>(to_half(relu && !(value > 0) && !std::isnan(value) ? 0.0f : value)); };
  each_lane(active, [&](int lane) { warp.row<uint32_t>(instruction.at[0])[lane] = half(warp.row<float>(instruction.at[1])[lane]) << 16 | half(warp.row<float>(instruction.at[2])[lane]); });
}
// The frequent ones, between registers of exactly their types.
template <class To, class From, auto function> void run_convert_simple(Warp& warp, const Instruction& instruction, uint32_t active) {
  To* to = warp.row<To>(instruction.at[0]);
  const From* from = warp.row<From>(instruction.at[1]);
  each_lane(active, [&](int lane) { to[lane] = function(from[lane]); });
}
template <class To, class From> To cast(From value) { return static_cast<To>(value); }

Run simple_conversion(Type to, Type from, uint32_t mode) {
  if (mode != nearest) return nullptr;
  if (to == Type::bf16 && from == Type::f32) return run_convert_simple<uint16_t, float, to_bf16>;
  if (to == Type::f16 && from == Type::f32) return run_convert_simple<uint16_t, float, to_f16>;
  if (to == Type::f32 && from == Type::bf16) return run_convert_simple<float, uint16_t, from_bf16>;
  if (to == Type::f32 && from == Type::f16) return run_convert_simple<float, uint16_t, from_f16>;
  if (to == Type::f32 && from == Type::s32) return run_convert_simple<float, int32_t, cast<float, int32_t>>;
  if (to == Type::f64 && from == Type::f32) return run_convert_simple<double, float, cast<double, float>>;
  if ((to == Type::s64 || to == Type::u64) && from == Type::s32) return run_convert_simple<uint64_t, int32_t, cast<uint64_t, int32_t>>;
  if ((to == Type::s64 || to == Type::u64) && from == Type::u32) return run_convert_simple<uint64_t, uint32_t, cast<uint64_t, uint32_t>>;
  if ((to == Type::s32 || to == Type::u32) && (from == Type::s64 || from == Type::u64)) return run_convert_simple<uint32_t, uint64_t, cast<uint32_t, uint64_t>>;
  return nullptr;
}

void encode_convert(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  auto types = statement.types();
  bool relu = false;
  for (auto& modifier : statement.modifiers) {
    if (modifier == "rn" || modifier == "rni") instruction.more |= nearest;
    else if (modifier == "rz" || modifier == "rzi") instruction.more |= toward_zero;
    else if (modifier == "rm" || modifier == "rmi") instruction.more |= down;
    else if (modifier == "rp" || modifier == "rpi") instruction.more |= up;
    else if (modifier == "sat") instruction.more |= saturating;
    else if (modifier == "relu") relu = true;
    else if (type_named(modifier) == Type::none) fail("%s: the conversion .%s is not known to the interpreter", statement.text.c_str(), modifier.c_str());
    if (modifier.size() == 3 && modifier.back() == 'i') instruction.more |= integer;
  }
  if (types.size() != 2) fail("%s: a conversion of this form is not known to the interpreter", statement.text.c_str());
  if (types[0] == Type::bf16x2 || types[0] == Type::f16x2) {
    if (types[1] != Type::f32 || statement.operands.size() != 3 || instruction.more) fail("%s: a conversion of this form is not known to the interpreter", statement.text.c_str());
    for (int i = 0; i < 3; ++i) instruction.at[i] = assembler.row(statement.operands[i], 4);
    bool brain = types[0] == Type::bf16x2;
    instruction.run = brain ? (relu ? run_convert_pair<to_bf16, true> : run_convert_pair<to_bf16, false>) : (relu ? run_convert_pair<to_f16, true> : run_convert_pair<to_f16, false>);
    return;
  }
  bool narrows = types[0] == Type::bf16 || types[0] == Type::f16 || (types[0] == Type::f64 && (instruction.more & 3));
  if (relu || (narrows && (instruction.more & 3) && !(instruction.more & integer))) fail("%s: a conversion of this form is not known to the interpreter", statement.text.c_str());
  int width_to = assembler.width(statement.operands[0], size_of(types[0])), width_from = assembler.width(statement.operands[1], size_of(types[1]));
  instruction.at[0] = assembler.row(statement.operands[0], width_to);
  instruction.at[1] = assembler.row(statement.operands[1], width_from);
  instruction.width[0] = static_cast<uint8_t>(width_to);
  instruction.width[1] = static_cast<uint8_t>(width_from);
  instruction.extra = static_cast<uint32_t>(types[0]) | static_cast<uint32_t>(types[1]) << 8;
  instruction.run = width_to == size_of(types[0]) && width_from == size_of(types[1]) ? simple_conversion(types[0], types[1], instruction.more) : nullptr;
  if (!instruction.run) instruction.run = run_convert;
}

// Generic addresses of the windows; those of global memory are the same in both spaces.
void run_convert_address(Warp& warp, const Instruction& instruction, uint32_t active) {
  each_lane(active, [&](int lane) {
    uint64_t address = warp.read(instruction.at[1], instruction.width[1], lane);
    warp.write(instruction.at[0], instruction.width[0], lane, address + static_cast<uint64_t>(instruction.offset));
  });
}
void encode_convert_address(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  // The address of a parameter has its generic form from the beginning.
  uint64_t window = statement.has("shared") ? shared_window : statement.has("local") ? local_window : 0;
  instruction.offset = static_cast<int64_t>(statement.has("to") ? 0 - window : window);
  for (int i = 0; i < 2; ++i) {
    instruction.width[i] = static_cast<uint8_t>(assembler.width(statement.operands[i], 8));
    instruction.at[i] = assembler.row(statement.operands[i], instruction.width[i]);
  }
  instruction.run = run_convert_address;
}

}  // namespace

void add_moves(Encoders& encoders) {
  encoders["mov"] = encode_move;
  encoders["cvt"] = encode_convert;
  encoders["cvta"] = encode_convert_address;
}

}  // namespace anneal::simt::ptx
