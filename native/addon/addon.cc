// The module's exports: tensors, copies, files, fences, statistics and the kernels.
#include <napi.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "context.h"
#include "files.h"
#include "kernels.h"

namespace anneal {

namespace {

double to_number(const Napi::CallbackInfo& info, size_t i, const char* what) {
  if (!info[i].IsNumber()) Context::of(info.Env()).raise("ERR_SHAPE", std::string(what) + " must be a number");
  return info[i].As<Napi::Number>().DoubleValue();
}

int64_t to_whole(const Napi::CallbackInfo& info, size_t i, const char* what) {
  double x = to_number(info, i, what);
  if (!(x >= 0 && x <= 9007199254740991.0) || x != static_cast<double>(static_cast<int64_t>(x)))
    Context::of(info.Env()).raise("ERR_SHAPE", std::string(what) + " must be a whole number from 0 to 2^53, but is " + std::to_string(x));
  return static_cast<int64_t>(x);
}

int to_file(const Napi::CallbackInfo& info, size_t i) {
  int64_t file = to_whole(info, i, "fd");
  if (file > INT32_MAX) Context::of(info.Env()).raise("ERR_SHAPE", "fd " + std::to_string(file) + " is not a file descriptor");
  return static_cast<int>(file);
}

DType to_dtype(const Napi::CallbackInfo& info, size_t i) {
  int64_t code = to_whole(info, i, "dtype");
  if (code >= dtype_count) Context::of(info.Env()).raise("ERR_SHAPE", "unknown dtype " + std::to_string(code));
  return static_cast<DType>(code);
}

int to_shape(const Napi::CallbackInfo& info, size_t i, int64_t* shape) {
  Context& context = Context::of(info.Env());
  if (!info[i].IsArray()) context.raise("ERR_SHAPE", "a shape must be an array");
  auto array = info[i].As<Napi::Array>();
  if (array.Length() > max_rank) context.raise("ERR_SHAPE", "a tensor has at most 6 axes, not " + std::to_string(array.Length()));
  for (uint32_t axis = 0; axis < array.Length(); ++axis) {
    Napi::Value value = array.Get(axis);
    double length = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
    if (!(length >= 0 && length <= 281474976710656.0) || length != static_cast<double>(static_cast<int64_t>(length)))
      context.raise("ERR_SHAPE", "axis " + std::to_string(axis) + " of a shape must be a whole number of at least 0");
    shape[axis] = static_cast<int64_t>(length);
  }
  return static_cast<int>(array.Length());
}

Context::Located to_tensor(const Napi::CallbackInfo& info, size_t i) {
  Context& context = Context::of(info.Env());
  Context::Located found = context.find(to_number(info, i, "a tensor's handle"));
  if (!found.device) context.raise("ERR_DISPOSED", "the tensor was disposed");
  return found;
}

Device& to_device(const Napi::CallbackInfo& info, size_t i) {
  Context& context = Context::of(info.Env());
  int64_t number = to_whole(info, i, "a device");
  if (number >= context.device_count()) context.raise("ERR_DEVICE", "device " + std::to_string(number) + " was not opened");
  return context.device(static_cast<int>(number));
}

// create(dtype, shape, device) → handle
Napi::Value create(const Napi::CallbackInfo& info) {
  int64_t shape[max_rank];
  int rank = to_shape(info, 1, shape);
  return Napi::Number::New(info.Env(), Context::of(info.Env()).create(to_device(info, 2), to_dtype(info, 0), shape, rank));
}

// view(handle, byteOffset, dtype, shape) → handle
Napi::Value view(const Napi::CallbackInfo& info) {
  int64_t shape[max_rank];
  int rank = to_shape(info, 3, shape);
  return Napi::Number::New(info.Env(), Context::of(info.Env()).view(to_number(info, 0, "a tensor's handle"), to_whole(info, 1, "byteOffset"), to_dtype(info, 2), shape, rank));
}

// release(handle, forgotten: whether the garbage collector found it)
Napi::Value release(const Napi::CallbackInfo& info) {
  Context::of(info.Env()).release(to_number(info, 0, "a tensor's handle"), info[1].ToBoolean());
  return info.Env().Undefined();
}

// write(handle, bytes: Uint8Array): copies now, so the array may change afterwards
Napi::Value write(const Napi::CallbackInfo& info) {
  Context& context = Context::of(info.Env());
  auto [tensor, device] = to_tensor(info, 0);
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) context.raise("ERR_SHAPE", "write: the data must be a Uint8Array");
  auto bytes = info[1].As<Napi::Uint8Array>();
  if (static_cast<int64_t>(bytes.ByteLength()) != tensor.bytes())
    context.raise("ERR_SHAPE", "write: the tensor holds " + std::to_string(tensor.bytes()) + " bytes, the data " + std::to_string(bytes.ByteLength()));
  context.refuse_in_capture(*device);
  if (bytes.ByteLength() == 0) return info.Env().Undefined();
  if (device->is_cpu() && device->stream.idle()) {
    memcpy(tensor.data, bytes.Data(), bytes.ByteLength());
  } else {
    std::string copy(reinterpret_cast<const char*>(bytes.Data()), bytes.ByteLength());
    device->stream.push([device = device, target = tensor.data, copy = std::move(copy)] { device->write(target, copy.data(), copy.size()); });
  }
  return info.Env().Undefined();
}

// read(handle) → Promise<ArrayBuffer>
Napi::Value read(const Napi::CallbackInfo& info) {
  auto [tensor, device] = to_tensor(info, 0);
  Context::of(info.Env()).refuse_in_capture(*device);
  auto buffer = Napi::ArrayBuffer::New(info.Env(), static_cast<size_t>(tensor.bytes()));
  device->stream.push([device = device, from = tensor.data, target = buffer.Data(), bytes = static_cast<size_t>(tensor.bytes())] { device->read(target, from, bytes); });
  return Context::of(info.Env()).fence(*device, buffer);
}

// copy(to, from): all bytes, from any device to any device
Napi::Value copy(const Napi::CallbackInfo& info) {
  Context& context = Context::of(info.Env());
  auto to = to_tensor(info, 0), from = to_tensor(info, 1);
  if (to.tensor.bytes() != from.tensor.bytes())
    context.raise("ERR_SHAPE", "copy: the tensors hold " + std::to_string(to.tensor.bytes()) + " and " + std::to_string(from.tensor.bytes()) + " bytes");
  context.refuse_in_capture(*to.device);
  context.refuse_in_capture(*from.device);
  context.copy(to, from);
  return info.Env().Undefined();
}

// readFile(handle, fd, offset, path): enqueued; a failure rejects the next fence
Napi::Value read_file(const Napi::CallbackInfo& info) {
  auto [tensor, device] = to_tensor(info, 0);
  Context::of(info.Env()).refuse_in_capture(*device);
  int file = to_file(info, 1);
  int64_t offset = to_whole(info, 2, "offset");
  device->stream.push([device = device, tensor = tensor, file, offset, path = std::string(info[3].ToString())] { read_tensor(*device, tensor, file, offset, path); });
  return info.Env().Undefined();
}

// writeFile(handle, fd, offset, path)
Napi::Value write_file(const Napi::CallbackInfo& info) {
  auto [tensor, device] = to_tensor(info, 0);
  Context::of(info.Env()).refuse_in_capture(*device);
  int file = to_file(info, 1);
  int64_t offset = to_whole(info, 2, "offset");
  device->stream.push([device = device, tensor = tensor, file, offset, path = std::string(info[3].ToString())] { write_tensor(*device, tensor, file, offset, path); });
  return info.Env().Undefined();
}

// fence(device) → Promise<void>
Napi::Value fence(const Napi::CallbackInfo& info) { return Context::of(info.Env()).fence(to_device(info, 0), Napi::Value()); }

// memory(device) → { live, peak, system, blocks }
Napi::Value memory(const Napi::CallbackInfo& info) {
  const auto& statistics = to_device(info, 0).allocator.statistics();
  auto object = Napi::Object::New(info.Env());
  object.Set("live", static_cast<double>(statistics.live));
  object.Set("peak", static_cast<double>(statistics.peak));
  object.Set("system", static_cast<double>(statistics.system));
  object.Set("blocks", static_cast<double>(statistics.blocks));
  return object;
}

// resetPeak(device)
Napi::Value reset_peak(const Napi::CallbackInfo& info) {
  to_device(info, 0).allocator.reset_peak();
  return info.Env().Undefined();
}

// emptyCache(device)
Napi::Value empty_cache(const Napi::CallbackInfo& info) {
  Context::of(info.Env()).empty_cache(to_device(info, 0));
  return info.Env().Undefined();
}

// setMemoryLimit(device, bytes); 0: none
Napi::Value set_memory_limit(const Napi::CallbackInfo& info) {
  to_device(info, 0).allocator.set_limit(static_cast<size_t>(to_whole(info, 1, "bytes")));
  return info.Env().Undefined();
}

// openDevice(library, index) → number of the device
Napi::Value open_device(const Napi::CallbackInfo& info) {
  int64_t index = to_whole(info, 1, "a device's index");
  return Napi::Number::New(info.Env(), Context::of(info.Env()).open_device(info[0].ToString(), static_cast<int>(std::min<int64_t>(index, INT32_MAX))));
}

// describeDevices(library) → [{ name, compute, multiprocessors, memory }]
Napi::Value describe_devices(const Napi::CallbackInfo& info) {
  const Backend& backend = load_backend(info[0].ToString());
  auto list = Napi::Array::New(info.Env());
  FailureKind kind;
  const char* message;
  int count = backend.count();
  if (count < 0 && backend.take_failure(&kind, &message)) throw Failure(kind, message);
  for (int i = 0; i < count; ++i) {
    DeviceDescription description;
    if (!backend.describe(i, &description)) {
      if (backend.take_failure(&kind, &message)) throw Failure(kind, message);
      continue;
    }
    auto object = Napi::Object::New(info.Env());
    object.Set("name", description.name);
    object.Set("compute", description.compute / 10.0);
    object.Set("multiprocessors", description.multiprocessors);
    object.Set("memory", static_cast<double>(description.memory));
    object.Set("gemmLibrary", backend.gemm_library());
    list.Set(list.Length(), object);
  }
  return list;
}

// launches(device) → Promise<number>: kernels launched since the device was opened, in stream order
Napi::Value launches(const Napi::CallbackInfo& info) {
  Device& device = to_device(info, 0);
  auto count = Napi::ArrayBuffer::New(info.Env(), sizeof(double));
  device.stream.push_always([&device, target = static_cast<double*>(count.Data())] { *target = static_cast<double>(device.launches()); });
  return Context::of(info.Env()).fence(device, count);
}

// startProfile(device); endProfile(device) → Promise<ArrayBuffer>: calls and seconds of each kernel, as doubles in the order of kernels.def, then of graphs
Napi::Value start_profile(const Napi::CallbackInfo& info) {
  Device& device = to_device(info, 0);
  device.stream.push_always([&device] { device.exchange_profile(std::make_unique<Profile>()); });
  return info.Env().Undefined();
}
Napi::Value end_profile(const Napi::CallbackInfo& info) {
  Device& device = to_device(info, 0);
  auto numbers = Napi::ArrayBuffer::New(info.Env(), sizeof(Profile));
  device.stream.push_always([&device, target = numbers.Data()] {
    if (auto profile = device.exchange_profile(nullptr)) memcpy(target, profile->of, sizeof(Profile));
  });
  return Context::of(info.Env()).fence(device, numbers);
}

// beginCapture(device), endCapture(device) → graph, replay(graph), releaseGraph(graph)
Napi::Value begin_capture(const Napi::CallbackInfo& info) {
  Context::of(info.Env()).begin_capture(to_device(info, 0));
  return info.Env().Undefined();
}
Napi::Value end_capture(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), Context::of(info.Env()).end_capture(to_device(info, 0))); }
Napi::Value replay(const Napi::CallbackInfo& info) {
  Context::of(info.Env()).replay(static_cast<int>(to_whole(info, 0, "a graph")));
  return info.Env().Undefined();
}
Napi::Value release_graph(const Napi::CallbackInfo& info) {
  Context::of(info.Env()).release_graph(static_cast<int>(to_whole(info, 0, "a graph")));
  return info.Env().Undefined();
}

// setThreads(count)
Napi::Value set_threads(const Napi::CallbackInfo& info) {
  Context& context = Context::of(info.Env());
  int64_t threads = to_whole(info, 0, "threads");
  if (threads < 1 || threads > 1024) context.raise("ERR_CONFIG", "threads must be from 1 to 1024, but is " + std::to_string(threads));
  context.set_threads(static_cast<int>(threads));
  return info.Env().Undefined();
}

// setIsa(name)
Napi::Value set_isa(const Napi::CallbackInfo& info) {
  Context& context = Context::of(info.Env());
  std::string name = info[0].ToString();
  const cpu::Isa* isa = cpu::select_isa(name.c_str());
  if (!isa) context.raise("ERR_CONFIG", "this machine cannot run the instruction set \"" + name + "\"");
  context.set_isa(isa);
  return info.Env().Undefined();
}

// info() → { isa, isas, threads }
Napi::Value describe(const Napi::CallbackInfo& info) {
  Context& context = Context::of(info.Env());
  auto object = Napi::Object::New(info.Env());
  object.Set("isa", context.isa->name);
  auto isas = Napi::Array::New(info.Env());
  for (const cpu::Isa* isa = cpu::available_isas(); isa->name; ++isa) isas.Set(isas.Length(), isa->name);
  object.Set("isas", isas);
  object.Set("threads", context.threads);
  return object;
}

// setErrorFactory((code, message) => Error)
Napi::Value set_error_factory(const Napi::CallbackInfo& info) {
  Context& context = Context::of(info.Env());
  if (!info[0].IsFunction()) context.raise("ERR_CONFIG", "setErrorFactory expects a function");
  context.error_factory = Napi::Persistent(info[0].As<Napi::Function>());
  context.error_factory.SuppressDestruct();
  return info.Env().Undefined();
}

template <Napi::Value (*function)(const Napi::CallbackInfo&)> Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return function(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (const Failure& failure) {
    Context::of(info.Env()).raise(failure.kind == FailureKind::memory ? "ERR_OUT_OF_MEMORY" : "ERR_DEVICE", failure.message);
  } catch (const std::bad_alloc&) {
    Context::of(info.Env()).raise("ERR_OUT_OF_MEMORY", "native memory ran out");
  } catch (const std::exception& error) {
    Context::of(info.Env()).raise("ERR_KERNEL", error.what());
  }
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  const char* wanted = std::getenv("ANNEAL_ISA");
  if (!cpu::select_isa(wanted)) throw Napi::Error::New(env, std::string("ANNEAL_ISA=") + wanted + ": this machine cannot run that instruction set");
  try {
    env.SetInstanceData(new Context(env));
  } catch (const std::exception& error) {
    throw Napi::Error::New(env, std::string("anneal's stream could not start: ") + error.what());
  }
#define EXPORT(name, function) exports.Set(name, Napi::Function::New<guarded<function>>(env, name))
  EXPORT("create", create);
  EXPORT("view", view);
  EXPORT("release", release);
  EXPORT("write", write);
  EXPORT("read", read);
  EXPORT("copy", copy);
  EXPORT("readFile", read_file);
  EXPORT("writeFile", write_file);
  EXPORT("fence", fence);
  EXPORT("memory", memory);
  EXPORT("resetPeak", reset_peak);
  EXPORT("emptyCache", empty_cache);
  EXPORT("setMemoryLimit", set_memory_limit);
  EXPORT("openDevice", open_device);
  EXPORT("describeDevices", describe_devices);
  EXPORT("launches", launches);
  EXPORT("startProfile", start_profile);
  EXPORT("endProfile", end_profile);
  EXPORT("beginCapture", begin_capture);
  EXPORT("endCapture", end_capture);
  EXPORT("replay", replay);
  EXPORT("releaseGraph", release_graph);
  EXPORT("setThreads", set_threads);
  EXPORT("setIsa", set_isa);
  EXPORT("info", describe);
  EXPORT("setErrorFactory", set_error_factory);
#undef EXPORT
  exports.Set("kernels", bind_kernels(env));
  exports.Set("signatures", kernel_signatures(env));
  return exports;
}

NODE_API_MODULE(anneal, initialise)

}  // namespace

}  // namespace anneal
