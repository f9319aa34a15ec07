#include "kernels.h"

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../checks.h"
#include "context.h"

namespace anneal {

namespace {

// What a call keeps of an argument until it runs, and how the kernel then receives it.
struct Optional { Tensor tensor; bool present; };
template <class T> struct Argument;

[[noreturn]] void refuse(Context& context, const char* kernel, size_t position, const std::string& why) {
  context.raise("ERR_KERNEL", std::string(kernel) + ": argument " + std::to_string(position + 1) + " " + why);
}

double number(Context& context, const char* kernel, napi_value value, size_t position) {
  double x;
  if (napi_get_value_double(context.env, value, &x) != napi_ok) refuse(context, kernel, position, "must be a number");
  return x;
}

// The call being read: the device of its first tensor is the device of all.
struct Call {
  Context& context;
  const char* kernel;
  Device* device = nullptr;
};

Tensor tensor(Call& call, napi_value value, size_t position) {
  Context::Located found = call.context.find(number(call.context, call.kernel, value, position));
  if (!found.device)
    call.context.raise("ERR_DISPOSED", std::string(call.kernel) + ": argument " + std::to_string(position + 1) + " is not a live tensor; was it disposed, or left its scope()?");
  if (!call.device) call.device = found.device;
  if (call.device != found.device)
    call.context.raise("ERR_DEVICE", std::string(call.kernel) + ": argument " + std::to_string(position + 1) + " is on " + found.device->name + ", but the tensors before it are on " +
                                         call.device->name + "; move one with to()");
  return found.tensor;
}

struct TensorArgument {
  using Stored = Tensor;
  static Stored from(Call& call, napi_value value, size_t position) { return tensor(call, value, position); }
};
template <> struct Argument<const Tensor&> : TensorArgument {
  static const Tensor& pass(Tensor& stored) { return stored; }
};
template <> struct Argument<Tensor&> : TensorArgument {
  static Tensor& pass(Tensor& stored) { return stored; }
};
struct OptionalArgument {
  using Stored = Optional;
  static Stored from(Call& call, napi_value value, size_t position) {
    double handle = number(call.context, call.kernel, value, position);
    if (handle == 0) return {{}, false};
    return {tensor(call, value, position), true};
  }
};
template <> struct Argument<const Tensor*> : OptionalArgument {
  static const Tensor* pass(Optional& stored) { return stored.present ? &stored.tensor : nullptr; }
};
template <> struct Argument<Tensor*> : OptionalArgument {
  static Tensor* pass(Optional& stored) { return stored.present ? &stored.tensor : nullptr; }
};
template <> struct Argument<double> {
  using Stored = double;
  static double from(Call& call, napi_value value, size_t position) { return number(call.context, call.kernel, value, position); }
  static double pass(double stored) { return stored; }
};
template <> struct Argument<int64_t> {
  using Stored = int64_t;
  static int64_t from(Call& call, napi_value value, size_t position) {
    Context& context = call.context;
    const char* kernel = call.kernel;
    double x = number(context, kernel, value, position);
    if (!(x >= -9007199254740991.0 && x <= 9007199254740991.0) || x != static_cast<double>(static_cast<int64_t>(x)))
      refuse(context, kernel, position, "must be a whole number within ±2^53");
    return static_cast<int64_t>(x);
  }
  static int64_t pass(int64_t stored) { return stored; }
};
template <> struct Argument<bool> {
  using Stored = bool;
  static bool from(Call& call, napi_value value, size_t position) {
    Context& context = call.context;
    const char* kernel = call.kernel;
    bool x;
    if (napi_get_value_bool(context.env, value, &x) != napi_ok) refuse(context, kernel, position, "must be true or false");
    return x;
  }
  static bool pass(bool stored) { return stored; }
};
template <> struct Argument<Axes> {
  using Stored = Axes;
  static Axes from(Call& call, napi_value value, size_t position) {
    Context& context = call.context;
    const char* kernel = call.kernel;
    uint32_t length = 0;
    bool is_array = false;
    if (napi_is_array(context.env, value, &is_array) != napi_ok || !is_array || napi_get_array_length(context.env, value, &length) != napi_ok || length > max_rank)
      refuse(context, kernel, position, "must be an array of at most 6 numbers");
    Axes axes{static_cast<int32_t>(length), {}};
    for (uint32_t i = 0; i < length; ++i) {
      napi_value element;
      napi_get_element(context.env, value, i, &element);
      axes.at[i] = Argument<int64_t>::from(call, element, position);
    }
    return axes;
  }
  static Axes pass(const Axes& stored) { return stored; }
};

// The entries of an array argument, each read by `read`.
template <class T, class F> std::vector<T> list(Call& call, napi_value value, size_t position, const char* what, F&& read) {
  Context& context = call.context;
  uint32_t length = 0;
  bool is_array = false;
  if (napi_is_array(context.env, value, &is_array) != napi_ok || !is_array || napi_get_array_length(context.env, value, &length) != napi_ok)
    refuse(context, call.kernel, position, std::string("must be an array of ") + what);
  std::vector<T> all;
  all.reserve(length);
  for (uint32_t i = 0; i < length; ++i) {
    napi_value element;
    if (napi_get_element(context.env, value, i, &element) != napi_ok) refuse(context, call.kernel, position, std::string("must be an array of ") + what);
    all.push_back(read(element));
  }
  return all;
}
template <> struct Argument<Tensors> {
  using Stored = std::vector<Tensor>;
  static Stored from(Call& call, napi_value value, size_t position) {
    return list<Tensor>(call, value, position, "tensors", [&](napi_value element) { return tensor(call, element, position); });
  }
  static Tensors pass(Stored& stored) { return {stored.data(), static_cast<int64_t>(stored.size())}; }
};
template <> struct Argument<Numbers> {
  using Stored = std::vector<double>;
  static Stored from(Call& call, napi_value value, size_t position) {
    return list<double>(call, value, position, "numbers", [&](napi_value element) { return number(call.context, call.kernel, element, position); });
  }
  static Numbers pass(const Stored& stored) { return {stored.data(), static_cast<int64_t>(stored.size())}; }
};

template <auto member, size_t id, auto check> struct Kernel;
template <auto member, size_t id, class... P, void (*check)(P...)> struct Kernel<member, id, check> {
  template <size_t... I> static void enqueue(Context& context, const char* name, napi_value* arguments, std::index_sequence<I...>) {
    Call call{context, name};
    // Braces: the arguments are checked from left to right.
    std::tuple<typename Argument<P>::Stored...> stored{Argument<P>::from(call, arguments[I], I)...};
    if (!call.device) context.raise("ERR_KERNEL", std::string(name) + ": expected at least one tensor, got empty lists");
    try {
      check(Argument<P>::pass(std::get<I>(stored))...);
    } catch (const Failure& failure) {
      context.raise("ERR_KERNEL", failure.message);
    }
    Device& device = *call.device;
    auto function = device.kernels->*member;
    device.stream.push([function, &device, stored = std::move(stored)]() mutable {
      device.run(id, [&] { function(Argument<P>::pass(std::get<I>(stored))...); });
    });
  }
  static napi_value call(napi_env env, napi_callback_info info) {
    constexpr size_t count = sizeof...(P);
    napi_value arguments[count + 1];
    size_t given = count + 1;
    void* name;
    napi_get_cb_info(env, info, &given, arguments, nullptr, &name);
    try {
      Context& context = Context::of(env);
      if (given != count)
        context.raise("ERR_KERNEL", std::string(static_cast<const char*>(name)) + ": expected " + std::to_string(count) + " arguments, got " + std::to_string(given));
      enqueue(context, static_cast<const char*>(name), arguments, std::index_sequence_for<P...>{});
    } catch (const Napi::Error& error) {
      error.ThrowAsJavaScriptException();
    } catch (const std::exception& error) {
      napi_throw_error(env, "ERR_KERNEL", error.what());
    }
    return nullptr;
  }
};

#define KERNEL(name, params) id_##name,
enum KernelId : size_t {
#include "../kernels.def"
};
#undef KERNEL

}  // namespace

Napi::Object bind_kernels(Napi::Env env) {
  Napi::Object object = Napi::Object::New(env);
  napi_value function;
#define KERNEL(name, params) \
  napi_create_function(env, #name, NAPI_AUTO_LENGTH, Kernel<&KernelTable::name, id_##name, &checks::name>::call, const_cast<char*>(#name), &function); \
  object.Set(#name, Napi::Value(env, function));
#include "../kernels.def"
#undef KERNEL
  return object;
}

Napi::Object kernel_signatures(Napi::Env env) {
  Napi::Object object = Napi::Object::New(env);
#define KERNEL(name, params) object.Set(#name, #params);
#include "../kernels.def"
#undef KERNEL
  return object;
}

}  // namespace anneal
