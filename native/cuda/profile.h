// Where a GPU's time goes: with ANNEAL_CUDA_PROFILE=<file>, each kernel-table call is timed by events on the stream, and their sums are written when the
// device closes. Calls inside a graph are not seen.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace anneal::cuda {

class Profile {
 public:
  Profile();
  bool enabled() const { return !path_.empty(); }
  void begin(const char* kernel, cudaStream_t stream);
  void end(cudaStream_t stream);
  // Writes {"kernel": {"calls", "ms"}, …, "idle": {"ms"}} and forgets the events.
  void close();

 private:
  struct Call {
    const char* kernel;
    cudaEvent_t begin, end;
  };
  struct Sum {
    uint64_t calls = 0;
    double milliseconds = 0;
  };
  void collect();
  cudaEvent_t take_event(cudaStream_t stream);

  std::string path_;
  std::vector<Call> calls_;
  std::vector<cudaEvent_t> free_;
  std::map<std::string, Sum> sums_;
  cudaEvent_t last_ = nullptr;  // the end of the call before
};

}  // namespace anneal::cuda
