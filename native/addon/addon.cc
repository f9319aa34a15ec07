// The module's exports: tensors, copies, files, fences, statistics and the kernels.
#include <napi.h>

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

const Tensor& to_tensor(const Napi::CallbackInfo& info, size_t i) {
  Context& context = Context::of(info.Env());
  const Tensor* tensor = context.find(to_number(info, i, "a tensor's handle"));
  if (!tensor) context.raise("ERR_DISPOSED", "the tensor was disposed");
  return *tensor;
}

// create(dtype, shape) → handle
Napi::Value create(const Napi::CallbackInfo& info) {
  int64_t shape[max_rank];
  int rank = to_shape(info, 1, shape);
  return Napi::Number::New(info.Env(), Context::of(info.Env()).create(to_dtype(info, 0), shape, rank));
}

// view(handle, byteOffset, dtype, shape) → handle
Napi::Value view(const Napi::CallbackInfo& info) {
  int64_t shape[max_rank];
  int rank = to_shape(info, 3, shape);
  return Napi::Number::New(info.Env(), Context::of(info.Env()).view(to_number(info, 0, "a tensor's handle"), to_whole(info, 1, "byteOffset"), to_dtype(info, 2), shape, rank));
}

// release(handle)
Napi::Value release(const Napi::CallbackInfo& info) {
  Context::of(info.Env()).release(to_number(info, 0, "a tensor's handle"));
  return info.Env().Undefined();
}

// write(handle, bytes: Uint8Array): copies now, so the array may change afterwards
Napi::Value write(const Napi::CallbackInfo& info) {
  Context& context = Context::of(info.Env());
  const Tensor& tensor = to_tensor(info, 0);
  if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) context.raise("ERR_SHAPE", "write: the data must be a Uint8Array");
  auto bytes = info[1].As<Napi::Uint8Array>();
  if (static_cast<int64_t>(bytes.ByteLength()) != tensor.bytes())
    context.raise("ERR_SHAPE", "write: the tensor holds " + std::to_string(tensor.bytes()) + " bytes, the data " + std::to_string(bytes.ByteLength()));
  if (bytes.ByteLength() == 0) return info.Env().Undefined();
  if (context.stream.idle()) {
    memcpy(tensor.data, bytes.Data(), bytes.ByteLength());
  } else {
    std::string copy(reinterpret_cast<const char*>(bytes.Data()), bytes.ByteLength());
    context.stream.push([target = tensor.data, copy = std::move(copy)] { memcpy(target, copy.data(), copy.size()); });
  }
  return info.Env().Undefined();
}

// read(handle) → Promise<ArrayBuffer>
Napi::Value read(const Napi::CallbackInfo& info) {
  Context& context = Context::of(info.Env());
  Tensor tensor = to_tensor(info, 0);
  auto buffer = Napi::ArrayBuffer::New(info.Env(), static_cast<size_t>(tensor.bytes()));
  void* target = buffer.Data();
  if (tensor.bytes() > 0) context.stream.push([tensor, target] { memcpy(target, tensor.data, static_cast<size_t>(tensor.bytes())); });
  return context.fence(buffer);
}

// readFile(handle, fd, offset, path): enqueued; a failure rejects the next fence
Napi::Value read_file(const Napi::CallbackInfo& info) {
  Tensor tensor = to_tensor(info, 0);
  int file = to_file(info, 1);
  int64_t offset = to_whole(info, 2, "offset");
  Context::of(info.Env()).stream.push([=, path = std::string(info[3].ToString())] { read_tensor(tensor, file, offset, path); });
  return info.Env().Undefined();
}

// writeFile(handle, fd, offset, path)
Napi::Value write_file(const Napi::CallbackInfo& info) {
  Tensor tensor = to_tensor(info, 0);
  int file = to_file(info, 1);
  int64_t offset = to_whole(info, 2, "offset");
  Context::of(info.Env()).stream.push([=, path = std::string(info[3].ToString())] { write_tensor(tensor, file, offset, path); });
  return info.Env().Undefined();
}

// fence() → Promise<void>
Napi::Value fence(const Napi::CallbackInfo& info) { return Context::of(info.Env()).fence(Napi::Value()); }

// memory() → { live, peak, system, tensors }
Napi::Value memory(const Napi::CallbackInfo& info) {
  const auto& statistics = Context::of(info.Env()).allocator.statistics();
  auto object = Napi::Object::New(info.Env());
  object.Set("live", static_cast<double>(statistics.live));
  object.Set("peak", static_cast<double>(statistics.peak));
  object.Set("system", static_cast<double>(statistics.system));
  object.Set("blocks", static_cast<double>(statistics.blocks));
  return object;
}

Napi::Value reset_peak(const Napi::CallbackInfo& info) {
  Context::of(info.Env()).allocator.reset_peak();
  return info.Env().Undefined();
}

Napi::Value empty_cache(const Napi::CallbackInfo& info) {
  Context::of(info.Env()).empty_cache();
  return info.Env().Undefined();
}

// setMemoryLimit(bytes); 0: none
Napi::Value set_memory_limit(const Napi::CallbackInfo& info) {
  Context::of(info.Env()).allocator.set_limit(static_cast<size_t>(to_whole(info, 0, "bytes")));
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
  context.isa = isa;
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
  EXPORT("readFile", read_file);
  EXPORT("writeFile", write_file);
  EXPORT("fence", fence);
  EXPORT("memory", memory);
  EXPORT("resetPeak", reset_peak);
  EXPORT("emptyCache", empty_cache);
  EXPORT("setMemoryLimit", set_memory_limit);
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
