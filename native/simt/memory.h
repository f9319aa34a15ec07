// Device memory of the emulator: host memory between guard bytes, filled with NaNs until something writes it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace anneal::simt {

struct Cell;

struct Buffer {
  unsigned char* data = nullptr;
  size_t bytes = 0;
  int device = 0;
  Cell** pages = nullptr;  // shadow memory, where the running launch has touched it (race.cc)
};

// None where the device has less than `bytes` left.
void* allocate_buffer(size_t bytes, int device);
// Whether p was a buffer.
bool free_buffer(void* p);
size_t allocated_bytes(int device);
bool inside_buffer(const void* p, size_t bytes, int device);
// The buffer with this address, or one without bytes.
Buffer find_buffer(const void* p);
// What has been written outside buffers, empty if nothing: a sentence for each buffer, whose guards are then whole again.
std::string broken_guards();
// The same for one buffer, left as it is.
std::string buffer_guard_broken(void* p);
// All buffers by address; valid until one is allocated or freed.
const std::vector<Buffer*>& sorted_buffers();

constexpr size_t guard_bytes = 512;

}  // namespace anneal::simt
