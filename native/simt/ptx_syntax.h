// PTX as nvcc writes it, read into functions, statements and operands. Nothing is resolved here: names stay names until ptx_assembler.h meets them.
#pragma once
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace anneal::simt::ptx {

// What the interpreter refuses: text it cannot read, an instruction it does not know, or an access that a GPU would not allow.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

enum class Type : uint8_t { none, u8, u16, u32, u64, s8, s16, s32, s64, b8, b16, b32, b64, f16, bf16, f32, f64, f16x2, bf16x2, pred };
Type type_named(const std::string& name);
int size_of(Type type);  // in bytes; a predicate has none
bool is_float(Type type);
bool is_signed(Type type);

struct Operand {
  enum class Kind : uint8_t { name, number, address, list, pair };  // a pair is "p|q"
  Kind kind = Kind::number;
  bool negated = false;        // "!p"
  std::string name;            // of a register, variable or label; of an address's base, empty if it has none
  uint64_t bits = 0;           // a number as it is stored; what an address or a name adds
  std::vector<Operand> parts;  // of a list or a pair
};

struct Variable {
  std::string space, name;
  size_t alignment = 1, bytes = 0;
  bool is_extern = false;        // its size is the launch's dynamic shared memory
  std::vector<uint8_t> initial;  // empty: zeros
};

struct Statement {
  enum class Kind : uint8_t { instruction, label, open, close, registers, variable, targets };
  Kind kind = Kind::instruction;
  int line = 0;
  std::string name;                    // opcode, label or type of registers
  std::vector<std::string> modifiers;  // of an opcode, in order
  std::string guard;                   // predicate register, or empty
  bool guard_negated = false;
  std::vector<Operand> operands;
  std::vector<std::pair<std::string, int>> registers;  // name, and how many where it is a range "%r<9>", else -1
  Variable variable;
  std::string text;

  bool has(const char* modifier) const;
  std::vector<Type> types() const;
};

struct Function {
  std::string name;
  bool is_entry = false;
  std::vector<Variable> results, parameters;
  std::vector<Statement> body;
};

struct Module {
  std::string path;
  std::map<std::string, Variable> variables;
  std::map<std::string, Function> functions;
};

Module parse(const std::string& text, const std::string& path);

}  // namespace anneal::simt::ptx
