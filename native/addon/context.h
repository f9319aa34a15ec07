// Everything one JavaScript environment owns: its devices and its tensors. A worker thread has a context of its own.
#pragma once
#include <napi.h>

#include <memory>
#include <string>
#include <vector>

#include "device.h"

namespace anneal {

class Context {
 public:
  // A tensor's handle is generation * 2^24 + index + 1: a whole number that JavaScript holds exactly; 0 is no tensor.
  static constexpr double index_range = 1 << 24;

  explicit Context(Napi::Env env);
  static Context& of(napi_env env);

  // A tensor as a call sees it, and where it lives.
  struct Located {
    Tensor tensor;
    Device* device;
  };

  double create(Device& device, DType dtype, const int64_t* shape, int rank);
  // A tensor over part of another's memory; byte_offset counts from the start of `handle`.
  double view(double handle, int64_t byte_offset, DType dtype, const int64_t* shape, int rank);
  // `forgotten`: the garbage collector found it, nobody disposed of it.
  void release(double handle, bool forgotten = false);
  // The tensor of a handle; its device is null where it was disposed or never existed.
  Located find(double handle);
  // Throws where the device's calls are being kept as a graph of the CPU: a copy belongs to one moment, and its memory in JavaScript goes away.
  void refuse_in_capture(const Device& device) const {
    if (capture_ && capture_->tape && capture_->device == &device)
      raise("ERR_DEVICE", "a graph cannot copy between host and device; make its tensors before the capture");
  }
  // Enqueues the copy of all bytes of `from` to `to`, which may live on another device.
  void copy(const Located& to, const Located& from);

  // A promise that resolves with `value` (undefined where empty) when the device's stream gets there, and rejects with the first failure before it.
  Napi::Promise fence(Device& device, Napi::Value value);
  void empty_cache(Device& device);
  void set_threads(int threads);
  void set_isa(const cpu::Isa* isa);

  // Opens a device of a library and returns its number; device 0 is the CPU.
  int open_device(const std::string& library, int index);
  Device& device(int number) { return *devices_[static_cast<size_t>(number)]; }
  int device_count() const { return static_cast<int>(devices_.size()); }
  Device& cpu() { return *devices_[0]; }

  // Calls enqueued on the device from here on are kept as a graph instead of being run; end_capture() returns its number.
  void begin_capture(Device& device);
  int end_capture(Device& device);
  void replay(int graph);
  void release_graph(int graph);

  // A JavaScript error of the class that src/errors.ts has for the code.
  Napi::Value make_error(const char* code, const std::string& message);
  [[noreturn]] void raise(const char* code, const std::string& message) const;

  Napi::Env env;
  const cpu::Isa* isa;
  int threads;
  Napi::FunctionReference error_factory;

 private:
  struct Slot {
    Tensor tensor;
    Allocator::Block* block = nullptr;  // null where the slot is free
    Device* device = nullptr;
    uint32_t generation = 0;
    int32_t next_free = -1;
  };
  struct Fence;
  // A captured graph runs again on the same memory, so the blocks that were freed during the capture stay taken until it is released.
  struct Graph {
    Device* device;
    std::shared_ptr<void*> executable;  // of a device of a library
    std::shared_ptr<Tape> tape;         // of the CPU
    std::vector<Allocator::Block*> blocks;
    std::vector<Allocator::Block*> used;  // what the tape reads and writes, which a replay must find
  };
  Tensor describe(DType dtype, const int64_t* shape, int rank) const;
  double occupy(Device& device, const Tensor& tensor, Allocator::Block* block);
  Slot* slot_of(double handle);
  void account(bool forgotten);

  void free_block(Device& device, Allocator::Block* block);

  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<std::unique_ptr<Graph>> graphs_;
  std::unique_ptr<Graph> capture_;
  std::vector<Slot> slots_;
  int32_t first_free_ = -1;
  int64_t accounted_ = 0;  // bytes that V8 has been told of
  Napi::ThreadSafeFunction fences_;
  int pending_fences_ = 0;
};

}  // namespace anneal
