// Everything one JavaScript environment owns: its stream, its memory and its tensors. A worker thread has a context of its own.
#pragma once
#include <napi.h>

#include <unordered_map>
#include <vector>

#include "../cpu/dispatch.h"
#include "allocator.h"
#include "stream.h"

namespace anneal {

class Context {
 public:
  // A tensor's handle is generation * 2^24 + index + 1: a whole number that JavaScript holds exactly; 0 is no tensor.
  static constexpr double index_range = 1 << 24;

  explicit Context(Napi::Env env);
  static Context& of(napi_env env);

  double create(DType dtype, const int64_t* shape, int rank);
  // A tensor over part of another's memory; byte_offset counts from the start of `handle`.
  double view(double handle, int64_t byte_offset, DType dtype, const int64_t* shape, int rank);
  void release(double handle);
  // The tensor of a handle, or null where it was disposed or never existed.
  const Tensor* find(double handle) const;

  // A promise that resolves with `value` (undefined where empty) when the stream gets there, and rejects with the first failure before it.
  Napi::Promise fence(Napi::Value value);
  void empty_cache();
  void set_threads(int threads);

  // A JavaScript error of the class that src/errors.ts has for the code.
  Napi::Value make_error(const char* code, const std::string& message);
  [[noreturn]] void raise(const char* code, const std::string& message) const;

  Napi::Env env;
  const cpu::Isa* isa;
  int threads;
  Stream stream;
  Allocator allocator;
  Napi::FunctionReference error_factory;

 private:
  struct Slot {
    Tensor tensor;
    Allocator::Block* block = nullptr;  // null where the slot is free
    uint32_t generation = 0;
    int32_t next_free = -1;
  };
  struct Fence;
  Tensor describe(DType dtype, const int64_t* shape, int rank) const;
  double occupy(const Tensor& tensor, Allocator::Block* block);
  Slot* slot_of(double handle);
  void account();

  std::vector<Slot> slots_;
  int32_t first_free_ = -1;
  int64_t accounted_ = 0;  // bytes that V8 has been told of
  Napi::ThreadSafeFunction fences_;
  int pending_fences_ = 0;
};

}  // namespace anneal
