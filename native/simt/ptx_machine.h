// The machine that runs a program of PTX: warps of 32 lanes in lock step, registers as rows of 32 values, the memory spaces with every access checked.
// Lanes that diverge go on from the lowest program counter, so that they meet again where their paths join.
#pragma once
#include <bit>
#include <cstring>
#include <memory>

#include "emulator.h"
#include "ptx_syntax.h"

namespace anneal::simt::ptx {

constexpr int lanes = 32;
constexpr uint32_t all_lanes = ~0u;

enum class Space : uint8_t { generic, global, shared, local, param };
// Where the spaces lie among generic addresses. Neither window can hold an address of the host.
constexpr uint64_t shared_window = uint64_t{1} << 62, local_window = uint64_t{1} << 61, param_window = uint64_t{3} << 61, window_bytes = uint64_t{1} << 32;

struct Warp;
struct Instruction;
using Run = void (*)(Warp& warp, const Instruction& instruction, uint32_t active);

enum class Flow : uint8_t { next, branch, branch_table, exit, barrier, arrive, collective, trap };

struct Instruction {
  Run run = nullptr;
  Flow flow = Flow::next;
  Space space = Space::generic;
  bool guard_negated = false;
  uint8_t negated = 0;                // bit i: the predicate of operand i counts inverted
  uint8_t width[4] = {8, 8, 8, 8};    // bytes of the registers whose width the instruction leaves open
  int32_t guard = -1;                 // row of the predicate, or -1
  uint32_t at[16] = {};               // byte offsets of the operands' rows in a warp's registers
  int64_t offset = 0;                 // what an address adds
  uint32_t extra = 0, more = 0;       // selectors of the opcode
  int32_t target = -1;                // of a branch: instruction, or table
  int32_t members = -1;               // row of the lanes that a collective joins, or -1: all of a full warp
  const Statement* source = nullptr;
};

// An entry function ready to run.
struct Program {
  std::string name, path;
  std::shared_ptr<const Module> module;
  std::vector<Instruction> code;
  std::vector<std::vector<int>> tables;      // of brx.idx
  std::vector<char> registers;               // first contents: constants in their rows, everything else poisoned
  std::vector<std::pair<uint32_t, int>> special;  // row and which: see SpecialRegister
  struct Global {
    std::unique_ptr<char[]> memory;
    uint64_t begin, bytes;
  };
  std::vector<Global> variables;             // of the module, in global memory
  size_t local_bytes = 0, shared_bytes = 0, parameter_bytes = 0;
};

enum SpecialRegister { tid_x, tid_y, tid_z, ntid_x, ntid_y, ntid_z, ctaid_x, ctaid_y, ctaid_z, nctaid_x, nctaid_y, nctaid_z, laneid, warpid, nwarpid,
                       lanemask_eq, lanemask_lt, lanemask_le, lanemask_gt, lanemask_ge, smid, nsmid, dynamic_smem_size, special_count };
extern const char* const special_names[special_count];

// Copies of cp.async that a lane has issued: done when it waits for their group, as late as the hardware may.
struct Copies {
  struct Copy {
    char* to;
    uint64_t from;
    int bytes, valid;
    const Instruction* instruction;
  };
  std::vector<Copy> queue;
  std::vector<size_t> groups;  // the queue's length at each commit
  size_t done = 0, groups_done = 0;
};

class Machine;
struct Warp {
  Machine* machine = nullptr;
  char* registers = nullptr;
  char* local = nullptr;
  int index = 0;
  int counter[lanes];               // the next instruction of each lane
  uint32_t live = 0;                // lanes that have not returned
  uint32_t at_barrier = 0;          // lanes that wait for a barrier …
  uint32_t gathering = 0;           // … or for the other members of a warp collective
  uint8_t barrier[lanes];
  const Instruction* barrier_instruction[lanes];
  uint32_t carry = 0;               // the carry bit of each lane
  Copies copies[lanes];

  template <class T> T* row(uint32_t at) { return reinterpret_cast<T*>(registers + at); }
  uint32_t& mask(uint32_t at) { return *reinterpret_cast<uint32_t*>(registers + at); }
  // A register of any width, zero-extended.
  uint64_t read(uint32_t at, int width, int lane);
  void write(uint32_t at, int width, int lane, uint64_t value);
};

template <class F> inline void each_lane(uint32_t active, F&& body) {
  if (active == all_lanes) {
    for (int lane = 0; lane < lanes; ++lane) body(lane);
  } else {
    for (; active; active &= active - 1) body(std::countr_zero(active));
  }
}

// A fault at this instruction, naming block and thread.
[[noreturn]] void fail_at(Warp& warp, const Instruction& instruction, int lane, const char* format, ...) __attribute__((format(printf, 4, 5)));

class Machine {
 public:
  Machine(const Program& program, dim3 grid, dim3 block, size_t dynamic_shared, const char* parameters);
  ~Machine();
  void run();

  // The host's memory behind an address of the instruction's space, after checks of alignment and bounds.
  char* memory(Warp& warp, const Instruction& instruction, Space space, uint64_t address, size_t bytes, int lane, size_t alignment);
  [[noreturn]] void fault(Warp& warp, const Instruction& instruction, int lane, const std::string& what);
  uint64_t steps() const { return steps_; }

 private:
  struct Barrier {
    int arrived = 0, expected = 0, votes = 0;
    bool counts_all = false;
  };
  void start_block();
  void run_block();
  void run_warp(Warp& warp);
  // Runs an instruction that its members execute together, or has the lanes wait for the rest. Returns whether it ran.
  bool collect(Warp& warp, const Instruction& instruction, uint32_t arriving, int counter);
  void arrive(Warp& warp, const Instruction& instruction, uint32_t active);
  void release(int id);
  void leave(Warp& warp, const Instruction& instruction, uint32_t active);
  [[noreturn]] void stuck();
  char* global(Warp& warp, const Instruction& instruction, uint64_t address, size_t bytes, int lane);

  const Program& program_;
  dim3 grid_, block_, position_{0, 0, 0};
  int threads_, live_threads_ = 0;
  std::vector<Warp> warps_;
  std::vector<char> shared_;
  const char* parameters_;
  size_t dynamic_shared_;
  Barrier barriers_[16];
  struct Known { uint64_t begin = 1, end = 0; };
  std::vector<Known> recent_;   // the allocation that each instruction met last
  uint64_t steps_ = 0;
};

}  // namespace anneal::simt::ptx
