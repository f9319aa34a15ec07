// How the emulator runs, from the environment. Read when a device opens, so that a test may change it between devices.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace anneal::simt {

enum class Order { ascending, descending, random };

struct Settings {
  Order order = Order::ascending;  // ANNEAL_SIMT_ORDER: which thread and block goes on where several can
  uint64_t seed = 1;               // ANNEAL_SIMT_SEED, of the random order
  int threads = 2;                 // ANNEAL_SIMT_THREADS: blocks at a time, each on a thread of the system
  bool race = true;                // ANNEAL_SIMT_RACE=0 switches the race detector off (instrumented builds)
  bool truncate = false;           // ANNEAL_SIMT_MMA=truncate: tensor cores round towards zero
  std::string profile;             // ANNEAL_SIMT_PROFILE: the file that gets the profile as JSON; %p is the process id
  int devices = 1;                 // ANNEAL_SIMT_DEVICES: 0 is a machine without a GPU, negative one with an old driver
  size_t memory = size_t{16} << 30;  // ANNEAL_SIMT_MEMORY: bytes of each device
  size_t shared = 227 << 10;       // ANNEAL_SIMT_SHARED: bytes of shared memory a block may have; 101376 is what sm_86, sm_89 and sm_120 give
  int compute = 80;                // ANNEAL_SIMT_COMPUTE: the compute capability it claims, times 10
  uint64_t fail_launch = 0;        // ANNEAL_SIMT_FAIL_LAUNCH: the launch, counted from 1, that fails
};

Settings settings();
void read_settings();

}  // namespace anneal::simt
