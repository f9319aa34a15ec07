// What a call on a stream throws to fail. Thrown and caught within one library: backend.h carries it across.
#pragma once
#include <exception>
#include <string>
#include <utility>

namespace anneal {

enum class FailureKind { none, kernel, memory, file, disk_full, device };

struct Failure : std::exception {
  FailureKind kind;
  std::string message;
  Failure(FailureKind kind, std::string message) : kind(kind), message(std::move(message)) {}
  const char* what() const noexcept override { return message.c_str(); }
};

}  // namespace anneal
