// Reads and writes tensors from and to open files, on the stream's thread and in its order.
#pragma once
#include <cstdint>
#include <string>

#include "device.h"

namespace anneal {

// Fills the tensor from the file at `offset`. The bytes are copied, never mapped: a file that shrinks meanwhile gives an error, not a signal.
void read_tensor(Device& device, const Tensor& tensor, int file, int64_t offset, const std::string& path);
void write_tensor(Device& device, const Tensor& tensor, int file, int64_t offset, const std::string& path);

}  // namespace anneal
