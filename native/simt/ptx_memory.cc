// Loads, stores, atomics, asynchronous copies and ldmatrix.
#include <cmath>

#include "ptx_assembler.h"
#include "ptx_numbers.h"

namespace anneal::simt::ptx {

namespace {

uint64_t address_at(Warp& warp, const Instruction& instruction, int index, int lane) {
  uint64_t address = warp.read(instruction.at[index], instruction.width[index], lane) + static_cast<uint64_t>(instruction.offset);
  return instruction.space == Space::shared ? static_cast<uint32_t>(address) : address;
}

// at[0]: the address; at[1] …: `extra` elements; width[1]: of their registers.
template <class T> void run_load(Warp& warp, const Instruction& instruction, uint32_t active) {
  const int count = static_cast<int>(instruction.extra), width = instruction.width[1];
  const size_t bytes = sizeof(T) * count;
  each_lane(active, [&](int lane) {
    T values[8];
    std::memcpy(values, warp.machine->memory(warp, instruction, instruction.space, address_at(warp, instruction, 0, lane), bytes, lane, bytes), bytes);
    for (int i = 0; i < count; ++i) {
      if (width == sizeof(T)) warp.row<T>(instruction.at[1 + i])[lane] = values[i];
      else warp.write(instruction.at[1 + i], width, lane, static_cast<uint64_t>(static_cast<int64_t>(values[i])));
    }
  });
}
template <class T> void run_store(Warp& warp, const Instruction& instruction, uint32_t active) {
  const int count = static_cast<int>(instruction.extra), width = instruction.width[1];
  const size_t bytes = sizeof(T) * count;
  each_lane(active, [&](int lane) {
    T values[8];
    for (int i = 0; i < count; ++i) values[i] = width == sizeof(T) ? warp.row<T>(instruction.at[1 + i])[lane] : static_cast<T>(warp.read(instruction.at[1 + i], width, lane));
    std::memcpy(warp.machine->memory(warp, instruction, instruction.space, address_at(warp, instruction, 0, lane), bytes, lane, bytes), values, bytes);
  });
}

template <bool stores> void encode_access(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  auto types = statement.types();
  if (types.size() != 1 || statement.operands.size() != 2) fail("%s: an access of this form is not known to the interpreter", statement.text.c_str());
  Type type = types[0];
  const Operand& data = statement.operands[stores ? 1 : 0];
  assembler.address(statement.operands[stores ? 0 : 1], instruction, 0, statement);
  const std::vector<Operand> one{data};
  const auto& elements = data.kind == Operand::Kind::list ? data.parts : one;
  int width = size_of(type);
  for (auto& element : elements) width = assembler.width(element, width);
  instruction.width[1] = static_cast<uint8_t>(width);
  instruction.extra = static_cast<uint32_t>(elements.size());
  for (size_t i = 0; i < elements.size(); ++i) instruction.at[1 + i] = assembler.row(elements[i], width);
  if (elements.size() > 8 || width < size_of(type) || (elements.size() > 1 && elements.size() * size_of(type) > 16)) fail("%s: an access of this form is not known to the interpreter", statement.text.c_str());
  switch (size_of(type)) {
    case 1: instruction.run = stores ? run_store<uint8_t> : is_signed(type) ? run_load<int8_t> : run_load<uint8_t>; break;
    case 2: instruction.run = stores ? run_store<uint16_t> : is_signed(type) ? run_load<int16_t> : run_load<uint16_t>; break;
    case 4: instruction.run = stores ? run_store<uint32_t> : is_signed(type) ? run_load<int32_t> : run_load<uint32_t>; break;
    default: instruction.run = stores ? run_store<uint64_t> : run_load<uint64_t>;
  }
}

template <class T> T combine(uint32_t operation, T old, T value, T other) {
  using U = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  switch (operation) {
    case 'a': return old + value;
    case 'm': return value < old ? value : old;
    case 'M': return value > old ? value : old;
    case 'x': return value;
    case 'c': return std::bit_cast<U>(old) == std::bit_cast<U>(value) ? other : old;
    default: break;
  }
  if constexpr (std::is_integral_v<T>) {
    switch (operation) {
      case '&': return old & value;
      case '|': return old | value;
      case '^': return old ^ value;
      case '+': return old >= value ? 0 : old + 1;
      case '-': return old == 0 || old > value ? value : old - 1;
      default: break;
    }
  }
  fail("an atomic operation of this form is not known to the interpreter");
}
// at[0]: the address; at[1]: the result, unless `more` says there is none; at[2], at[3]: the values; extra: the operation.
template <class T> void run_atomic(Warp& warp, const Instruction& instruction, uint32_t active) {
  each_lane(active, [&](int lane) {
    char* place = warp.machine->memory(warp, instruction, instruction.space, address_at(warp, instruction, 0, lane), sizeof(T), lane, sizeof(T));
    T old;
    std::memcpy(&old, place, sizeof(T));
    T value = combine(instruction.extra, old, warp.row<T>(instruction.at[2])[lane], warp.row<T>(instruction.at[3])[lane]);
    std::memcpy(place, &value, sizeof(T));
    if (!instruction.more) warp.row<T>(instruction.at[1])[lane] = old;
  });
}
template <bool reduces> void encode_atomic(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  static const std::pair<const char*, char> operations[] = {{"add", 'a'}, {"min", 'm'}, {"max", 'M'}, {"exch", 'x'}, {"cas", 'c'}, {"and", '&'}, {"or", '|'}, {"xor", '^'}, {"inc", '+'}, {"dec", '-'}};
  for (auto [name, letter] : operations)
    if (statement.has(name)) instruction.extra = static_cast<uint32_t>(letter);
  auto types = statement.types();
  int first = reduces ? 0 : 1;
  if (!instruction.extra || types.size() != 1 || statement.operands.size() < static_cast<size_t>(first + 2)) fail("%s: an atomic operation of this form is not known to the interpreter", statement.text.c_str());
  int bytes = size_of(types[0]);
  assembler.address(statement.operands[first], instruction, 0, statement);
  instruction.more = reduces || Assembler::is_sink(statement.operands[0]);
  if (!instruction.more) instruction.at[1] = assembler.row(statement.operands[0], bytes);
  instruction.at[2] = assembler.row(statement.operands[first + 1], bytes);
  instruction.at[3] = statement.operands.size() > static_cast<size_t>(first + 2) ? assembler.row(statement.operands[first + 2], bytes) : instruction.at[2];
  switch (types[0]) {
    case Type::f32: instruction.run = run_atomic<float>; break;
    case Type::f64: instruction.run = run_atomic<double>; break;
    case Type::s32: instruction.run = run_atomic<int32_t>; break;
    case Type::s64: instruction.run = run_atomic<int64_t>; break;
    case Type::u32: case Type::b32: instruction.run = run_atomic<uint32_t>; break;
    case Type::u64: case Type::b64: instruction.run = run_atomic<uint64_t>; break;
    default: fail("%s: an atomic operation of this type is not known to the interpreter", statement.text.c_str());
  }
}

// at[0]: to, at[1]: from, at[2]: bytes, at[3]: bytes that are copied, the rest being zeros; offset and `more`: what the addresses add.
void run_copy(Warp& warp, const Instruction& instruction, uint32_t active) {
  each_lane(active, [&](int lane) {
    int bytes = warp.row<int>(instruction.at[2])[lane], valid = warp.row<int>(instruction.at[3])[lane];
    uint64_t from = warp.read(instruction.at[1], instruction.width[1], lane) + static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(instruction.more)));
    if (valid < 0 || valid > bytes) fail_at(warp, instruction, lane, "%d of %d bytes are copied", valid, bytes);
    if (valid && from % bytes) fail_at(warp, instruction, lane, "the source %llx is not aligned to %d bytes", static_cast<unsigned long long>(from), bytes);
    char* to = warp.machine->memory(warp, instruction, Space::shared, static_cast<uint32_t>(warp.read(instruction.at[0], instruction.width[0], lane) + static_cast<uint64_t>(instruction.offset)), bytes, lane, bytes);
    std::memset(to, 0xff, bytes);  // undefined until the wait
    warp.copies[lane].queue.push_back({to, from, bytes, valid, &instruction});
  });
}
void run_commit(Warp& warp, const Instruction&, uint32_t active) {
  each_lane(active, [&](int lane) { warp.copies[lane].groups.push_back(warp.copies[lane].queue.size()); });
}
// extra: how many groups may be left.
void run_wait(Warp& warp, const Instruction& instruction, uint32_t active) {
  each_lane(active, [&](int lane) {
    Copies& copies = warp.copies[lane];
    if (instruction.more) copies.groups.push_back(copies.queue.size());
    for (; copies.groups.size() - copies.groups_done > instruction.extra; ++copies.groups_done)
      for (; copies.done < copies.groups[copies.groups_done]; ++copies.done) {
        auto& copy = copies.queue[copies.done];
        if (copy.valid) std::memcpy(copy.to, warp.machine->memory(warp, *copy.instruction, Space::generic, copy.from, copy.valid, lane, 1), copy.valid);
        std::memset(copy.to + copy.valid, 0, copy.bytes - copy.valid);
      }
    if (copies.done == copies.queue.size() && copies.groups_done == copies.groups.size()) copies = Copies();
  });
}
void encode_copy(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  if (!statement.has("async") || statement.has("bulk") || statement.has("mbarrier")) fail("%s: this copy is not known to the interpreter", statement.text.c_str());
  if (statement.has("commit_group")) {
    instruction.run = run_commit;
  } else if (statement.has("wait_group") || statement.has("wait_all")) {
    instruction.run = run_wait;
    instruction.more = statement.has("wait_all");
    instruction.extra = instruction.more ? 0 : static_cast<uint32_t>(statement.operands.at(0).bits);
  } else {
    Instruction from;
    assembler.address(statement.operands.at(1), from, 1, statement);
    assembler.address(statement.operands[0], instruction, 0, statement);
    instruction.at[1] = from.at[1];
    instruction.width[1] = from.width[1];
    instruction.more = static_cast<uint32_t>(from.offset);
    if (from.offset != static_cast<int32_t>(from.offset)) fail("%s: the offset is too large for the interpreter", statement.text.c_str());
    instruction.at[2] = assembler.row(statement.operands.at(2), 4);
    instruction.at[3] = statement.operands.size() > 3 ? assembler.row(statement.operands[3], 4) : instruction.at[2];
    instruction.run = run_copy;
  }
}

// Lane i gives the address of row i % 8 of matrix i / 8; lane i receives two neighbours of row i / 4, or of column i / 4 where transposed.
// at[0]: the address; at[1] …: a register for each of `extra` matrices.
template <bool transposed> void run_load_matrix(Warp& warp, const Instruction& instruction, uint32_t) {
  for (uint32_t matrix = 0; matrix < instruction.extra; ++matrix) {
    uint16_t rows[8][8];
    for (int row = 0; row < 8; ++row) {
      int lane = static_cast<int>(matrix) * 8 + row;
      std::memcpy(rows[row], warp.machine->memory(warp, instruction, Space::shared, address_at(warp, instruction, 0, lane), 16, lane, 16), 16);
    }
    for (int lane = 0; lane < lanes; ++lane) {
      int along = lane / 4, pair = lane % 4 * 2;
      uint32_t low = transposed ? rows[pair][along] : rows[along][pair], high = transposed ? rows[pair + 1][along] : rows[along][pair + 1];
      warp.row<uint32_t>(instruction.at[1 + matrix])[lane] = low | high << 16;
    }
  }
}
void encode_load_matrix(Assembler& assembler, const Statement& statement, Instruction& instruction) {
  instruction.extra = statement.has("x4") ? 4 : statement.has("x2") ? 2 : 1;
  const Operand& to = statement.operands.at(0);
  const std::vector<Operand> one{to};
  const auto& registers = to.kind == Operand::Kind::list ? to.parts : one;
  if (!statement.has("m8n8") || !statement.has("b16") || registers.size() != instruction.extra) fail("%s: this form is not known to the interpreter", statement.text.c_str());
  assembler.address(statement.operands.at(1), instruction, 0, statement);
  for (size_t i = 0; i < registers.size(); ++i) instruction.at[1 + i] = assembler.row(registers[i], 4);
  instruction.flow = Flow::collective;
  instruction.run = statement.has("trans") ? run_load_matrix<true> : run_load_matrix<false>;
}

// Hints and fences: memory is consistent here at once.
void run_nothing(Warp&, const Instruction&, uint32_t) {}
void encode_nothing(Assembler&, const Statement&, Instruction& instruction) { instruction.run = run_nothing; }

}  // namespace

void add_memory(Encoders& encoders) {
  encoders["ld"] = encoders["ldu"] = encode_access<false>;
  encoders["st"] = encode_access<true>;
  encoders["atom"] = encode_atomic<false>;
  encoders["red"] = encode_atomic<true>;
  encoders["cp"] = encode_copy;
  encoders["ldmatrix"] = encode_load_matrix;
  encoders["membar"] = encoders["fence"] = encoders["prefetch"] = encoders["prefetchu"] = encoders["nanosleep"] = encode_nothing;
}

}  // namespace anneal::simt::ptx
