#include "settings.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace anneal::simt {
namespace {

std::mutex mutex;
Settings now;
bool known = false;

// The value of a variable as a whole number; a value that is none ends the process, as a mistyped test would otherwise prove nothing.
long long number(const char* name, long long otherwise) {
  const char* text = std::getenv(name);
  if (!text || !*text) return otherwise;
  char* end = nullptr;
  long long value = std::strtoll(text, &end, 0);
  if (*end) {
    std::fprintf(stderr, "%s=%s is not a whole number\n", name, text);
    std::abort();
  }
  return value;
}
std::string word(const char* name) {
  const char* text = std::getenv(name);
  return text ? text : "";
}
bool choice(const char* name, const char* first, const char* second, const char* third, int* chosen) {
  std::string text = word(name);
  if (text.empty()) return false;
  const char* const words[] = {first, second, third};
  for (int i = 0; i < 3; ++i)
    if (words[i] && text == words[i]) return *chosen = i, true;
  std::fprintf(stderr, "%s=%s is none of %s, %s%s%s\n", name, text.c_str(), first, second, third ? ", " : "", third ? third : "");
  std::abort();
}

Settings from_environment() {
  Settings result;
  int chosen = 0;
  if (choice("ANNEAL_SIMT_ORDER", "ascending", "descending", "random", &chosen)) result.order = static_cast<Order>(chosen);
  result.seed = static_cast<uint64_t>(number("ANNEAL_SIMT_SEED", 1));
  result.threads = static_cast<int>(number("ANNEAL_SIMT_THREADS", 2));
  result.race = number("ANNEAL_SIMT_RACE", 1) != 0;
  if (choice("ANNEAL_SIMT_MMA", "nearest", "truncate", nullptr, &chosen)) result.truncate = chosen == 1;
  result.profile = word("ANNEAL_SIMT_PROFILE");
  result.devices = static_cast<int>(number("ANNEAL_SIMT_DEVICES", 1));
  result.memory = static_cast<size_t>(number("ANNEAL_SIMT_MEMORY", static_cast<long long>(result.memory)));
  result.shared = static_cast<size_t>(number("ANNEAL_SIMT_SHARED", static_cast<long long>(result.shared)));
  result.compute = static_cast<int>(number("ANNEAL_SIMT_COMPUTE", result.compute));
  result.fail_launch = static_cast<uint64_t>(number("ANNEAL_SIMT_FAIL_LAUNCH", 0));
  return result;
}

}  // namespace

Settings settings() {
  std::lock_guard lock(mutex);
  if (!known) {
    now = from_environment();
    known = true;
  }
  return now;
}

void read_settings() {
  std::lock_guard lock(mutex);
  now = from_environment();
  known = true;
}

}  // namespace anneal::simt
