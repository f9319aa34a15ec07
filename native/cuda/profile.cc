#include "profile.h"

#include <cstdio>
#include <cstdlib>

namespace anneal::cuda {

constexpr size_t most_calls = 4096;  // whose events are kept before their times are read

Profile::Profile() {
  if (const char* path = std::getenv("ANNEAL_CUDA_PROFILE")) path_ = path;
}

cudaEvent_t Profile::take_event(cudaStream_t stream) {
  cudaEvent_t event = nullptr;
  if (free_.empty()) {
    cudaEventCreateWithFlags(&event, 0);
  } else {
    event = free_.back();
    free_.pop_back();
  }
  cudaEventRecord(event, stream);
  return event;
}

void Profile::begin(const char* kernel, cudaStream_t stream) {
  if (calls_.size() >= most_calls) collect();
  calls_.push_back({kernel, take_event(stream), nullptr});
}

void Profile::end(cudaStream_t stream) {
  if (!calls_.empty() && !calls_.back().end) calls_.back().end = take_event(stream);
}

void Profile::collect() {
  for (const Call& call : calls_) {
    if (!call.end) continue;
    cudaEventSynchronize(call.end);
    float milliseconds = 0;
    if (last_ && cudaEventElapsedTime(&milliseconds, last_, call.begin) == cudaSuccess) {
      Sum& idle = sums_["idle"];
      ++idle.calls;
      idle.milliseconds += milliseconds;
    }
    if (cudaEventElapsedTime(&milliseconds, call.begin, call.end) == cudaSuccess) {
      Sum& sum = sums_[call.kernel];
      ++sum.calls;
      sum.milliseconds += milliseconds;
    }
    free_.push_back(call.begin);
    if (last_) free_.push_back(last_);
    last_ = call.end;
  }
  calls_.clear();
}

void Profile::close() {
  if (!enabled()) return;
  collect();
  if (FILE* file = std::fopen(path_.c_str(), "w")) {
    std::fputs("{", file);
    const char* comma = "\n";
    for (const auto& [kernel, sum] : sums_) {
      std::fprintf(file, "%s  \"%s\": {\"calls\": %llu, \"ms\": %.4f}", comma, kernel.c_str(), static_cast<unsigned long long>(sum.calls), sum.milliseconds);
      comma = ",\n";
    }
    std::fputs("\n}\n", file);
    std::fclose(file);
  }
  if (last_) free_.push_back(last_);
  for (cudaEvent_t event : free_) cudaEventDestroy(event);
  free_.clear();
  last_ = nullptr;
}

}  // namespace anneal::cuda
