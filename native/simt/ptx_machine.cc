#include "ptx_machine.h"

#include <algorithm>
#include <climits>
#include <cstdarg>

#include "memory.h"
#include "settings.h"

namespace anneal::simt::ptx {

const char* const special_names[special_count] = {"%tid.x", "%tid.y", "%tid.z", "%ntid.x", "%ntid.y", "%ntid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid", "%warpid", "%nwarpid",
                                                  "%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge", "%smid", "%nsmid", "%dynamic_smem_size"};

uint64_t Warp::read(uint32_t at, int width, int lane) {
  switch (width) {
    case 1: return row<uint8_t>(at)[lane];
    case 2: return row<uint16_t>(at)[lane];
    case 4: return row<uint32_t>(at)[lane];
    default: return row<uint64_t>(at)[lane];
  }
}
void Warp::write(uint32_t at, int width, int lane, uint64_t value) {
  switch (width) {
    case 1: row<uint8_t>(at)[lane] = static_cast<uint8_t>(value); break;
    case 2: row<uint16_t>(at)[lane] = static_cast<uint16_t>(value); break;
    case 4: row<uint32_t>(at)[lane] = static_cast<uint32_t>(value); break;
    default: row<uint64_t>(at)[lane] = value;
  }
}

void fail_at(Warp& warp, const Instruction& instruction, int lane, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  warp.machine->fault(warp, instruction, lane, text);
}

void Machine::fault(Warp& warp, const Instruction& instruction, int lane, const std::string& what) {
  int thread = warp.index * lanes + lane;
  fail("%s:%d: %s: %s in block (%u, %u, %u), thread %d", program_.path.c_str(), instruction.source->line, instruction.source->text.c_str(), what.c_str(), position_.x, position_.y, position_.z, thread);
}

Machine::Machine(const Program& program, dim3 grid, dim3 block, size_t dynamic_shared, const char* parameters)
    : program_(program), grid_(grid), block_(block), threads_(static_cast<int>(block.x * block.y * block.z)), parameters_(parameters), dynamic_shared_(dynamic_shared), recent_(program.code.size()) {
  if (threads_ < 1 || threads_ > 1024) fail("a block of %d threads", threads_);
  if (program.shared_bytes + dynamic_shared > settings().shared) fail("a block needs %zu bytes of shared memory", program.shared_bytes + dynamic_shared);
  shared_.resize(program.shared_bytes + dynamic_shared);
  warps_.resize((threads_ + lanes - 1) / lanes);
  for (size_t i = 0; i < warps_.size(); ++i) {
    Warp& warp = warps_[i];
    warp.machine = this;
    warp.index = static_cast<int>(i);
    warp.registers = static_cast<char*>(operator new(program.registers.size() + 64, std::align_val_t{64}));
    std::memcpy(warp.registers, program.registers.data(), program.registers.size());
    warp.local = static_cast<char*>(operator new(program.local_bytes * lanes + 64, std::align_val_t{64}));
  }
}

Machine::~Machine() {
  for (Warp& warp : warps_) {
    operator delete(warp.registers, std::align_val_t{64});
    operator delete(warp.local, std::align_val_t{64});
  }
}

void Machine::run() {
  for (position_.z = 0; position_.z < grid_.z; ++position_.z)
    for (position_.y = 0; position_.y < grid_.y; ++position_.y)
      for (position_.x = 0; position_.x < grid_.x; ++position_.x) {
        start_block();
        run_block();
      }
}

void Machine::start_block() {
  std::fill(shared_.begin(), shared_.end(), static_cast<char>(0xff));  // what nobody has written is NaN
  live_threads_ = threads_;
  for (Barrier& barrier : barriers_) barrier = Barrier();
  for (Warp& warp : warps_) {
    int count = std::min(lanes, threads_ - warp.index * lanes);
    warp.live = count == lanes ? all_lanes : (1u << count) - 1;
    warp.at_barrier = warp.gathering = warp.carry = 0;
    std::fill(warp.counter, warp.counter + lanes, 0);
    std::memset(warp.local, 0xff, program_.local_bytes * lanes);
    for (auto& copies : warp.copies) copies = Copies();
    for (auto [at, which] : program_.special)
      for (int lane = 0; lane < lanes; ++lane) {
        unsigned thread = warp.index * lanes + lane, bit = 1u << lane;
        const unsigned values[special_count] = {thread % block_.x, thread / block_.x % block_.y, thread / (block_.x * block_.y), block_.x, block_.y, block_.z, position_.x, position_.y, position_.z, grid_.x, grid_.y, grid_.z,
                                                static_cast<unsigned>(lane), static_cast<unsigned>(warp.index), static_cast<unsigned>(warps_.size()), bit, bit - 1, bit | (bit - 1), ~(bit | (bit - 1)), ~(bit - 1), 0, 1,
                                                static_cast<unsigned>(dynamic_shared_)};
        warp.row<uint32_t>(at)[lane] = values[which];
      }
  }
}

void Machine::run_block() {
  while (live_threads_) {
    bool ran = false;
    for (Warp& warp : warps_)
      if (warp.live & ~warp.at_barrier & ~warp.gathering) {
        ran = true;
        run_warp(warp);
      }
    if (!ran) stuck();
  }
}

void Machine::run_warp(Warp& warp) {
  const Instruction* code = program_.code.data();
  while (uint32_t ready = warp.live & ~warp.at_barrier & ~warp.gathering) {
    // The lanes at the lowest counter run until they reach the next lanes.
    int counter = INT_MAX, others = INT_MAX;
    uint32_t active = 0;
    each_lane(ready, [&](int lane) {
      if (warp.counter[lane] < counter) {
        others = counter;
        counter = warp.counter[lane];
        active = 0;
      } else if (warp.counter[lane] > counter) {
        others = std::min(others, warp.counter[lane]);
      }
      if (warp.counter[lane] == counter) active |= 1u << lane;
    });
    auto set_counters = [&](uint32_t which, int value) { each_lane(which, [&](int lane) { warp.counter[lane] = value; }); };
    for (bool together = true; together;) {
      const Instruction& instruction = code[counter];
      uint32_t on = active;
      if (instruction.guard >= 0) on &= instruction.guard_negated ? ~warp.mask(instruction.guard) : warp.mask(instruction.guard);
      ++steps_;
      switch (instruction.flow) {
        case Flow::next:
          if (on) instruction.run(warp, instruction, on);
          ++counter;
          break;
        case Flow::branch:
          if (on && on != active) {
            set_counters(on, instruction.target);
            set_counters(active & ~on, counter + 1);
            together = false;
          } else {
            counter = on ? instruction.target : counter + 1;
          }
          break;
        case Flow::branch_table: {
          const auto& table = program_.tables[instruction.target];
          each_lane(on, [&](int lane) {
            uint32_t index = warp.row<uint32_t>(instruction.at[0])[lane];
            if (index >= table.size()) fail_at(warp, instruction, lane, "entry %u of a table of %zu", index, table.size());
            warp.counter[lane] = table[index];
          });
          set_counters(active & ~on, counter + 1);
          together = false;
          break;
        }
        case Flow::exit:
          set_counters(active & ~on, counter + 1);
          leave(warp, instruction, on);
          together = false;
          break;
        case Flow::barrier:
          set_counters(active, counter + 1);
          if (on) arrive(warp, instruction, on);
          together = false;
          break;
        case Flow::arrive:
          if (on) arrive(warp, instruction, on);
          ++counter;
          break;
        case Flow::collective: {
          bool gathered = warp.gathering;
          if (on && !collect(warp, instruction, on, counter)) {
            set_counters(active & ~on, counter + 1);
            together = false;
          } else if (gathered) {  // lanes that waited may go on
            set_counters(active, counter + 1);
            together = false;
          } else {
            ++counter;
          }
          break;
        }
        case Flow::trap:
          if (on) fail_at(warp, instruction, std::countr_zero(on), "the kernel stopped itself");
          ++counter;
          break;
      }
      if (together && counter >= others) {
        set_counters(active, counter);
        together = false;
      }
    }
  }
}

bool Machine::collect(Warp& warp, const Instruction& instruction, uint32_t arriving, int counter) {
  uint32_t here = arriving;
  each_lane(warp.gathering, [&](int lane) {
    if (warp.counter[lane] == counter) here |= 1u << lane;
  });
  int first = std::countr_zero(arriving);
  uint32_t members = instruction.members < 0 ? all_lanes : warp.row<uint32_t>(instruction.members)[first];
  if (instruction.members < 0 && warp.live != all_lanes) fail_at(warp, instruction, first, "it needs all 32 lanes, but only %08x are there", warp.live);
  members &= warp.live;
  if (!(members >> first & 1)) fail_at(warp, instruction, first, "the lane is not in its own mask");
  if ((here & members) != members) {
    each_lane(arriving, [&](int lane) { warp.counter[lane] = counter; });
    warp.gathering |= arriving;
    return false;
  }
  if (arriving & ~members) fail_at(warp, instruction, std::countr_zero(arriving & ~members), "the lane is not in the mask %08x of the others", members);
  uint32_t waited = members & ~arriving;
  warp.gathering &= ~waited;
  each_lane(waited, [&](int lane) { warp.counter[lane] = counter + 1; });
  if (instruction.run) instruction.run(warp, instruction, members);
  return true;
}

// at[0]: barrier; at[1]: threads, where `extra` is set; a reduction has its result in at[2], its predicate in at[3], its kind in `more`.
void Machine::arrive(Warp& warp, const Instruction& instruction, uint32_t active) {
  int first = std::countr_zero(active);
  uint32_t id = warp.row<uint32_t>(instruction.at[0])[first];
  if (id > 15) fail_at(warp, instruction, first, "barrier %u", id);
  Barrier& barrier = barriers_[id];
  bool all = !instruction.extra;
  int expected = all ? live_threads_ : static_cast<int>(warp.row<uint32_t>(instruction.at[1])[first]);
  if (!all && (expected % lanes || expected == 0)) fail_at(warp, instruction, first, "a barrier of %d threads, which is no multiple of 32", expected);
  if (barrier.arrived && (barrier.counts_all != all || (!all && barrier.expected != expected))) fail_at(warp, instruction, first, "barrier %u of %d threads meets the same barrier of %d", id, expected, barrier.expected);
  barrier.expected = expected;
  barrier.counts_all = all;
  barrier.arrived += std::popcount(active);
  if (instruction.flow == Flow::barrier) {
    if (instruction.more) {
      uint32_t votes = warp.mask(instruction.at[3]);
      if (instruction.negated >> 3 & 1) votes = ~votes;
      barrier.votes += std::popcount(votes & active);
    }
    warp.at_barrier |= active;
    each_lane(active, [&](int lane) {
      warp.barrier[lane] = static_cast<uint8_t>(id);
      warp.barrier_instruction[lane] = &instruction;
    });
  }
  if (barrier.arrived > expected) fail_at(warp, instruction, first, "%d threads at a barrier of %d", barrier.arrived, expected);
  if (barrier.arrived == expected) release(static_cast<int>(id));
}

void Machine::release(int id) {
  Barrier& barrier = barriers_[id];
  for (Warp& warp : warps_)
    each_lane(warp.at_barrier, [&](int lane) {
      if (warp.barrier[lane] != id) return;
      warp.at_barrier &= ~(1u << lane);
      const Instruction& instruction = *warp.barrier_instruction[lane];
      if (!instruction.more) return;
      bool every = barrier.votes == barrier.arrived;
      uint32_t& mask = warp.mask(instruction.at[2]);
      if (instruction.more == 'p') warp.row<uint32_t>(instruction.at[2])[lane] = barrier.votes;
      else mask = (mask & ~(1u << lane)) | static_cast<uint32_t>(instruction.more == 'a' ? every : barrier.votes > 0) << lane;
    });
  barrier = Barrier();
}

void Machine::leave(Warp& warp, const Instruction& instruction, uint32_t active) {
  each_lane(active, [&](int lane) {
    if (warp.copies[lane].done != warp.copies[lane].queue.size()) fail_at(warp, instruction, lane, "the thread ends before its cp.async has been waited for");
  });
  warp.live &= ~active;
  live_threads_ -= std::popcount(active);
  // Threads that have ended are not waited for.
  for (int id = 0; id < 16; ++id)
    if (barriers_[id].arrived && barriers_[id].counts_all && barriers_[id].arrived == live_threads_) release(id);
  for (uint32_t waiting = warp.gathering; waiting;) {
    int counter = warp.counter[std::countr_zero(waiting)];
    uint32_t group = 0;
    each_lane(waiting, [&](int lane) { group |= static_cast<uint32_t>(warp.counter[lane] == counter) << lane; });
    waiting &= ~group;
    warp.gathering &= ~group;
    if (collect(warp, program_.code[counter], group, counter)) each_lane(group, [&](int lane) { warp.counter[lane] = counter + 1; });
  }
}

void Machine::stuck() {
  std::string where;
  for (Warp& warp : warps_) {
    each_lane(warp.live, [&](int lane) {
      if (where.size() > 400) return;
      const Instruction& instruction = warp.at_barrier >> lane & 1 ? *warp.barrier_instruction[lane] : program_.code[warp.counter[lane]];
      std::string place = instruction.source->text + " (line " + std::to_string(instruction.source->line) + ")";
      if (where.find(place) == std::string::npos) where += (where.empty() ? "" : ", ") + place + " from thread " + std::to_string(warp.index * lanes + lane);
    });
  }
  fail("deadlock: %d threads of block (%u, %u, %u) wait at %s", live_threads_, position_.x, position_.y, position_.z, where.c_str());
}

char* Machine::global(Warp& warp, const Instruction& instruction, uint64_t address, size_t bytes, int lane) {
  Known& known = recent_[&instruction - program_.code.data()];
  if (address >= known.begin && address < known.end && bytes <= known.end - address) return reinterpret_cast<char*>(address);
  const Buffer buffer = find_buffer(reinterpret_cast<void*>(address));
  uint64_t begin = reinterpret_cast<uint64_t>(buffer.data), size = buffer.bytes;
  for (auto& variable : program_.variables)
    if (address >= variable.begin && address < variable.begin + variable.bytes) begin = variable.begin, size = variable.bytes;
  if (size == 0) fail_at(warp, instruction, lane, "%zu bytes at %llx, which is in no allocation", bytes, static_cast<unsigned long long>(address));
  if (bytes > begin + size - address) fail_at(warp, instruction, lane, "%zu bytes at offset %llu of an allocation of %llu bytes", bytes, static_cast<unsigned long long>(address - begin), static_cast<unsigned long long>(size));
  known = {begin, begin + size};
  return reinterpret_cast<char*>(address);
}

char* Machine::memory(Warp& warp, const Instruction& instruction, Space space, uint64_t address, size_t bytes, int lane, size_t alignment) {
  if (address % alignment) fail_at(warp, instruction, lane, "the address %llx is not aligned to %zu bytes", static_cast<unsigned long long>(address), alignment);
  if (space == Space::generic) {
    if (address - shared_window < window_bytes) address -= shared_window, space = Space::shared;
    else if (address - local_window < window_bytes) address -= local_window, space = Space::local;
    else if (address - param_window < window_bytes) address -= param_window, space = Space::param;
    else space = Space::global;
  } else if (space == Space::param && address >= param_window) {
    address -= param_window;
  }
  if (space == Space::global) return global(warp, instruction, address, bytes, lane);
  size_t size = space == Space::shared ? shared_.size() : space == Space::local ? program_.local_bytes : program_.parameter_bytes;
  if (address > size || bytes > size - address) fail_at(warp, instruction, lane, "%zu bytes at offset %llu of %zu bytes of %s", bytes, static_cast<unsigned long long>(address), size, space == Space::shared ? "shared memory" : space == Space::local ? "local memory" : "parameters");
  if (space == Space::shared) return shared_.data() + address;
  if (space == Space::local) return warp.local + lane * program_.local_bytes + address;
  return const_cast<char*>(parameters_) + address;
}

}  // namespace anneal::simt::ptx
