// What lanes do together, and what moves their program counters.
#include <cmath>

#include "ptx_assembler.h"
#include "ptx_numbers.h"

namespace anneal::simt::ptx {

namespace {

// at[0]: result, at[1]: value, at[2]: lane or distance, at[3]: clamp and segments, at[4]: predicate, where `extra` is set; more: the mode.
void run_shuffle(Warp& warp, const Instruction& instruction, uint32_t active) {
  uint32_t from[lanes], valid = 0;
  std::memcpy(from, warp.row<uint32_t>(instruction.at[1]), sizeof from);
  each_lane(active, [&](int lane) {
    int distance = static_cast<int>(warp.row<uint32_t>(instruction.at[2])[lane] & 31), control = static_cast<int>(warp.row<uint32_t>(instruction.at[3])[lane]);
    int segment = control >> 8 & 31, clamp = control & 31, first = lane & segment, last = first | (clamp & ~segment), source;
    bool inside;
    switch (instruction.more) {
      case 'u': source = lane - distance; inside = source >= last; break;
      case 'd': source = lane + distance; inside = source <= last; break;
      case 'b': source = lane ^ distance; inside = source <= last; break;
      default: source = first | (distance & ~segment); inside = source <= last;
    }
    if (!inside) source = lane;
    if (!(active >> source & 1)) fail_at(warp, instruction, lane, "it reads lane %d, which does not take part (%08x)", source, active);
    valid |= static_cast<uint32_t>(inside) << lane;
    warp.row<uint32_t>(instruction.at[0])[lane] = from[source];
  });
  if (!instruction.extra) return;
  uint32_t& mask = warp.mask(instruction.at[4]);
  mask = (mask & ~active) | valid;
}
void encode_shuffle(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  if (!statement.has("sync") || statement.operands.size() != 5) fail("%s: this form is not known to the interpreter", statement.text.c_str());
  instruction.flow = Flow::collective;
  instruction.run = run_shuffle;
  instruction.more = statement.has("up") ? 'u' : statement.has("down") ? 'd' : statement.has("bfly") ? 'b' : 'i';
  const Operand& result = statement.operands[0];
  instruction.extra = result.kind == Operand::Kind::pair;
  instruction.at[0] = assembler.row(instruction.extra ? result.parts[0] : result, 4);
  if (instruction.extra) instruction.at[4] = assembler.row(result.parts[1], 0);
  for (int i = 1; i < 4; ++i) instruction.at[i] = assembler.row(statement.operands[i], 4);
  instruction.members = static_cast<int32_t>(assembler.row(statement.operands[4], 4));
}

void run_vote(Warp& warp, const Instruction& instruction, uint32_t active) {
  uint32_t votes = warp.mask(instruction.at[1]);
  if (instruction.negated >> 1 & 1) votes = ~votes;
  votes &= active;
  if (instruction.more == 'b') return each_lane(active, [&](int lane) { warp.row<uint32_t>(instruction.at[0])[lane] = votes; });
  bool result = instruction.more == 'n' ? votes != 0 : instruction.more == 'l' ? votes == active : votes == active || votes == 0;
  uint32_t& mask = warp.mask(instruction.at[0]);
  mask = result ? mask | active : mask & ~active;
}
void encode_vote(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  if (!statement.has("sync") || statement.operands.size() != 3) fail("%s: this form is not known to the interpreter", statement.text.c_str());
  instruction.flow = Flow::collective;
  instruction.run = run_vote;
  instruction.more = statement.has("ballot") ? 'b' : statement.has("any") ? 'n' : statement.has("all") ? 'l' : 'u';
  instruction.at[0] = assembler.row(statement.operands[0], instruction.more == 'b' ? 4 : 0);
  instruction.at[1] = assembler.row(statement.operands[1], 0);
  instruction.negated = static_cast<uint8_t>(statement.operands[1].negated << 1);
  instruction.members = static_cast<int32_t>(assembler.row(statement.operands[2], 4));
}

template <class T> void run_warp_reduce(Warp& warp, const Instruction& instruction, uint32_t active) {
  const T* values = warp.row<T>(instruction.at[1]);
  T result = values[std::countr_zero(active)];
  each_lane(active & (active - 1), [&](int lane) {
    T value = values[lane];
    switch (instruction.more) {
      case 'a': result = static_cast<T>(static_cast<uint32_t>(result) + static_cast<uint32_t>(value)); break;
      case 'm': result = value < result ? value : result; break;
      case 'M': result = value > result ? value : result; break;
      case '&': result &= value; break;
      case '|': result |= value; break;
      default: result ^= value;
    }
  });
  each_lane(active, [&](int lane) { warp.row<T>(instruction.at[0])[lane] = result; });
}
void encode_warp_reduce(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  if (statement.has("f32") || statement.operands.size() != 3) fail("%s: this form is not known to the interpreter", statement.text.c_str());
  instruction.flow = Flow::collective;
  instruction.more = statement.has("add") ? 'a' : statement.has("min") ? 'm' : statement.has("max") ? 'M' : statement.has("and") ? '&' : statement.has("or") ? '|' : '^';
  instruction.run = statement.has("s32") ? run_warp_reduce<int32_t> : run_warp_reduce<uint32_t>;
  for (int i = 0; i < 2; ++i) instruction.at[i] = assembler.row(statement.operands[i], 4);
  instruction.members = static_cast<int32_t>(assembler.row(statement.operands[2], 4));
}

template <class T> void run_match(Warp& warp, const Instruction& instruction, uint32_t active) {
  const T* values = warp.row<T>(instruction.at[1]);
  each_lane(active, [&](int lane) {
    uint32_t same = 0;
    each_lane(active, [&](int other) { same |= static_cast<uint32_t>(values[other] == values[lane]) << other; });
    warp.row<uint32_t>(instruction.at[0])[lane] = same;
  });
}
void encode_match(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  if (!statement.has("any") || statement.operands.size() != 3) fail("%s: this form is not known to the interpreter", statement.text.c_str());
  bool wide = statement.has("b64");
  instruction.flow = Flow::collective;
  instruction.run = wide ? run_match<uint64_t> : run_match<uint32_t>;
  instruction.at[0] = assembler.row(statement.operands[0], 4);
  instruction.at[1] = assembler.row(statement.operands[1], wide ? 8 : 4);
  instruction.members = static_cast<int32_t>(assembler.row(statement.operands[2], 4));
}

void run_active(Warp& warp, const Instruction& instruction, uint32_t active) {
  each_lane(active, [&](int lane) { warp.row<uint32_t>(instruction.at[0])[lane] = active; });
}
void encode_active(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  instruction.run = run_active;
  instruction.at[0] = assembler.row(statement.operands.at(0), 4);
}

// d (16×8) = a (16×depth) b (depth×8) + c. Lane i holds, with g = i / 4 and t = i % 4: of a, pairs from columns 2t of rows g and g + 8, and the same 8
// columns further; of b, pairs from rows 2t of column g, and 8 rows further; of c and d, pairs from columns 2t of rows g and g + 8.
// at: 4 of d, then a, b and 4 of c, as they are written.
template <int depth, auto from> void run_multiply(Warp& warp, const Instruction& instruction, uint32_t) {
  constexpr int steps = depth / 8;
  float a[16][depth], b[depth][8], c[16][8];
  const uint32_t *at_a = instruction.at + 4, *at_b = at_a + 2 * steps, *at_c = at_b + steps;
  for (int lane = 0; lane < lanes; ++lane) {
    int group = lane / 4, pair = lane % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      auto value = [&](uint32_t at) { return from(static_cast<uint16_t>(warp.row<uint32_t>(at)[lane] >> 16 * half)); };
      for (int step = 0; step < steps; ++step) {
        a[group][8 * step + pair + half] = value(at_a[2 * step]);
        a[group + 8][8 * step + pair + half] = value(at_a[2 * step + 1]);
        b[8 * step + pair + half][group] = value(at_b[step]);
      }
      c[group][pair + half] = warp.row<float>(at_c[half])[lane];
      c[group + 8][pair + half] = warp.row<float>(at_c[2 + half])[lane];
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < depth; ++k)
      for (int column = 0; column < 8; ++column) c[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < lanes; ++lane)
    for (int half = 0; half < 2; ++half) {
      warp.row<float>(instruction.at[half])[lane] = c[lane / 4][lane % 4 * 2 + half];
      warp.row<float>(instruction.at[2 + half])[lane] = c[lane / 4 + 8][lane % 4 * 2 + half];
    }
}
void encode_multiply(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  auto types = statement.types();
  bool deep = statement.has("m16n8k16"), known = deep || statement.has("m16n8k8");
  if (!known || types.size() != 4 || types[0] != Type::f32 || types[3] != Type::f32 || types[1] != types[2] || (types[1] != Type::bf16 && types[1] != Type::f16) || !statement.has("row") || !statement.has("col"))
    fail("%s: this form is not known to the interpreter", statement.text.c_str());
  size_t next = 0;
  for (auto& operand : statement.operands)
    for (auto& part : operand.parts) {
      if (next == 16) fail("%s: too many registers", statement.text.c_str());
      instruction.at[next++] = assembler.row(part, 4);
    }
  if (next != (deep ? 14u : 11u)) fail("%s: it has %zu registers", statement.text.c_str(), next);
  instruction.flow = Flow::collective;
  bool brain = types[1] == Type::bf16;
  instruction.run = deep ? (brain ? run_multiply<16, from_bf16> : run_multiply<16, from_f16>) : (brain ? run_multiply<8, from_bf16> : run_multiply<8, from_f16>);
}

void encode_barrier(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  if (statement.has("warp")) {  // bar.warp.sync: a collective that does nothing
    instruction.flow = Flow::collective;
    instruction.members = static_cast<int32_t>(assembler.row(statement.operands.at(0), 4));
    return;
  }
  if (statement.has("cluster")) fail("%s: clusters are not known to the interpreter", statement.text.c_str());
  instruction.flow = statement.has("arrive") ? Flow::arrive : Flow::barrier;
  size_t next = 0;
  if (statement.has("red")) {
    instruction.more = statement.has("popc") ? 'p' : statement.has("and") ? 'a' : 'o';
    instruction.at[2] = assembler.row(statement.operands.at(next++), instruction.more == 'p' ? 4 : 0);
  }
  instruction.at[0] = assembler.row(statement.operands.at(next++), 4);
  size_t left = statement.operands.size() - next - (instruction.more ? 1 : 0);
  instruction.extra = left == 1;
  if (left == 1) instruction.at[1] = assembler.row(statement.operands[next++], 4);
  if (!instruction.more) return;
  instruction.at[3] = assembler.row(statement.operands.at(next), 0);
  if (statement.operands[next].negated) instruction.negated |= 1 << 3;
}

void encode_branch(Assembler& assembler, const Statement& statement, Instruction& instruction) { assembler.branch(statement.operands.at(0), instruction); }
void encode_branch_table(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  instruction.flow = Flow::branch_table;
  instruction.at[0] = assembler.row(statement.operands.at(0), 4);
  instruction.target = assembler.table(statement.operands.at(1));
}
void encode_exit(Assembler&, const Statement&, Instruction& instruction) { instruction.flow = Flow::exit; }
void encode_trap(Assembler&, const Statement&, Instruction& instruction) { instruction.flow = Flow::trap; }

}  // namespace

void add_warp(Encoders& encoders) {
  encoders["shfl"] = encode_shuffle;
  encoders["vote"] = encode_vote;
  encoders["redux"] = encode_warp_reduce;
  encoders["match"] = encode_match;
  encoders["activemask"] = encode_active;
  encoders["mma"] = encode_multiply;
  encoders["bar"] = encoders["barrier"] = encode_barrier;
  encoders["bra"] = encode_branch;
  encoders["brx"] = encode_branch_table;
  encoders["ret"] = encoders["exit"] = encode_exit;
  encoders["trap"] = encode_trap;
}

}  // namespace anneal::simt::ptx
