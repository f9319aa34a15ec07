// Turns an entry function of a module into a Program: registers become rows, labels become positions, functions are expanded where they are called.
// What an instruction does is looked up by its name in the table of handlers, or by an encoder that reads its operands itself.
#pragma once
#include <functional>
#include <unordered_map>

#include "ptx_machine.h"

namespace anneal::simt::ptx {

Program assemble(std::shared_ptr<const Module> module, const std::string& entry);

// A handler and the widths in bytes of its result and arguments; 0 is a predicate.
struct Handler {
  Run run;
  std::vector<int> widths;
};
using Handlers = std::unordered_map<std::string, Handler>;

class Assembler;
using Encoder = void (*)(Assembler& assembler, const Statement& statement, Instruction& instruction);
using Encoders = std::unordered_map<std::string, Encoder>;

// By opcode and modifiers, without those that do not change the result here: "add.f32", "setp.lt.and.s32".
void add_arithmetic(Handlers& handlers);
void add_logic(Handlers& handlers);
// By opcode alone.
void add_moves(Encoders& encoders);
void add_memory(Encoders& encoders);
void add_warp(Encoders& encoders);

// One scalar function as a handler. A bool stands for a predicate.
template <class T> inline constexpr int width_of = sizeof(T);
template <> inline constexpr int width_of<bool> = 0;

template <class T> inline T read_lane(Warp& warp, const Instruction& instruction, int operand, int lane) {
  if constexpr (std::is_same_v<T, bool>) return ((warp.mask(instruction.at[operand]) >> lane ^ instruction.negated >> operand) & 1) != 0;
  else return warp.row<T>(instruction.at[operand])[lane];
}

template <auto function, class R, class... A, size_t... i>
void run_lanes(Warp& warp, const Instruction& instruction, uint32_t active, R (*)(A...), std::index_sequence<i...>) {
  if constexpr (std::is_same_v<R, bool>) {
    uint32_t result = 0;
    each_lane(active, [&](int lane) { result |= static_cast<uint32_t>(function(read_lane<A>(warp, instruction, i + 1, lane)...)) << lane; });
    uint32_t& mask = warp.mask(instruction.at[0]);
    mask = (mask & ~active) | result;
  } else {
    R* to = warp.row<R>(instruction.at[0]);
    each_lane(active, [&](int lane) { to[lane] = function(read_lane<A>(warp, instruction, i + 1, lane)...); });
  }
}
template <auto function, class R, class... A> Handler make_handler(R (*)(A...)) {
  return {[](Warp& warp, const Instruction& instruction, uint32_t active) { run_lanes<function>(warp, instruction, active, static_cast<R (*)(A...)>(function), std::index_sequence_for<A...>()); },
          {width_of<R>, width_of<A>...}};
}
template <auto function> Handler handler() { return make_handler<function>(+function); }

class Assembler {
 public:
  Assembler(Program& program, const Module& module) : program_(program), module_(module) {}
  void entry(const Function& function);

  // The row that holds the operand as values of `bytes` bytes (0: a predicate). Numbers and addresses of variables get rows of their own.
  uint32_t row(const Operand& operand, int bytes);
  // The width of the operand's register; `otherwise` if it is a number.
  int width(const Operand& operand, int otherwise);
  // Where "_" stands, what is written is lost.
  static bool is_sink(const Operand& operand) { return operand.kind == Operand::Kind::name && operand.name == "_"; }
  // Base into at[index] and width[index], offset and space of an address, whose space the opcode may leave to the generic one.
  void address(const Operand& operand, Instruction& instruction, int index, const Statement& statement);
  uint32_t constant(uint64_t bits, int bytes);
  // Sets a branch's target once the label is known.
  void branch(const Operand& label, Instruction& instruction);
  int table(const Operand& label);
  void call(const Statement& statement);

 private:
  struct Binding {
    enum class Kind : uint8_t { reg, local, param } kind;
    uint32_t at = 0;  // row, or offset in its space
    int width = 0;
  };
  struct Frame {  // of one expansion of a function
    const Function* function;
    std::vector<std::map<std::string, Binding>> scopes;
    std::map<std::string, int> labels;
    std::map<std::string, std::vector<std::string>> targets;
    std::vector<std::pair<size_t, std::string>> branches;
    std::vector<std::pair<int, std::string>> tables;
    std::string previous_label;
    bool expanded = false;
  };
  [[noreturn]] void error(const std::string& what) const;
  uint32_t new_row(int bytes);
  const Binding* find(const std::string& name) const;
  uint64_t address_of(const std::string& name);
  void place_shared(const Function& function, std::vector<const Function*>& seen);
  void declare(const Variable& variable);
  void declare(const Statement& registers);
  void body(const Function& function, Frame frame);
  void instruction(const Statement& statement);

  Program& program_;
  const Module& module_;
  std::vector<Frame*> frames_;
  std::map<std::string, uint64_t> shared_, globals_;
  std::map<std::pair<uint64_t, int>, uint32_t> constants_;
  std::map<int, uint32_t> special_;
  const Statement* statement_ = nullptr;
};

}  // namespace anneal::simt::ptx
