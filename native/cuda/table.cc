#include "table.h"

#include <exception>
#include <string_view>
#include <utility>

#include "../check.h"

namespace anneal::cuda {

#define KERNEL(name, params) void name params;
#include "../kernels.def"
#undef KERNEL

namespace {

struct Absence {
  std::string_view kernel;
  const char* reason;
};
constexpr Absence absences[] = {
    {"", ""},
#define ABSENT(name, reason) {#name, reason},
#include "absent.def"
#undef ABSENT
};
constexpr const char* reason_of(std::string_view kernel) {
  for (const Absence& absence : absences)
    if (absence.kernel == kernel) return absence.reason;
  return nullptr;
}

template <class F> void guard(const char* kernel, F&& body) noexcept {
  try {
    begin_call(kernel);
    body();
    end_call();
  } catch (const Failure& failure) {
    keep(failure);
  } catch (const std::exception& error) {
    keep(Failure(FailureKind::kernel, error.what()));
  }
}

template <const char* const& name, auto function> struct Guarded;
template <const char* const& name, class... P, void (*function)(P...)> struct Guarded<name, function> {
  static void call(P... parameters) {
    guard(name, [&] { function(std::forward<P>(parameters)...); });
  }
};
// A kernel of absent.def: it says so when it is called.
template <const char* const& name, const char* const& reason, class Function> struct Absent;
template <const char* const& name, const char* const& reason, class... P> struct Absent<name, reason, void (*)(P...)> {
  static void call(P...) {
    guard(name, [] { fail("%s has no CUDA kernel: %s", name, reason); });
  }
};

#define KERNEL(name, params)                          \
  struct Choice_##name {                              \
    static constexpr const char* kernel = #name;      \
    static constexpr const char* reason = reason_of(#name); \
    template <bool present> static constexpr auto choose() { \
      if constexpr (present) return &Guarded<kernel, &cuda::name>::call; \
      else return &Absent<kernel, reason, decltype(KernelTable::name)>::call; \
    }                                                 \
  };
#include "../kernels.def"
#undef KERNEL

}  // namespace

const KernelTable table = {
#define KERNEL(name, params) .name = Choice_##name::choose<Choice_##name::reason == nullptr>(),
#include "../kernels.def"
#undef KERNEL
};

}  // namespace anneal::cuda
