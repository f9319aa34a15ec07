// Matrix products by cuBLASLt. Row-major matrices are its column-major ones transposed, so c^T = op(b)^T op(a)^T is what it computes: its a is our b.
// Which of its algorithms serves a product is asked once per shape; none that sums in an order of its own choosing (in place, by atomics) is allowed.
#include "cublaslt.h"

#include "gemm_library.h"

#if defined(ANNEAL_SIMT)

namespace anneal::cuda {

bool library_usable() { return false; }
bool library_fuses(const Output&) { return false; }
bool library_multiply(const Product&) { return false; }

}  // namespace anneal::cuda

extern "C" __attribute__((visibility("default"))) const char* anneal_gemm_library() { return "anneal's own kernels, run by the emulator"; }

#else

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace anneal::cuda {
namespace {

using namespace cublaslt;

constexpr size_t most_workspace = size_t{32} << 20;

struct Library {
  Functions functions{};
  bool loaded = false;
  std::string description;  // its name and version, or why it is missing

  Library() {
    const char* wanted = std::getenv("ANNEAL_CUBLASLT");
    if (wanted && std::strcmp(wanted, "off") == 0) {
      description = "anneal's own kernels: ANNEAL_CUBLASLT is off";
      return;
    }
    std::vector<const char*> names = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so", "/usr/local/cuda/lib64/libcublasLt.so"};
    if (wanted && *wanted) names = {wanted};
    std::string first_reason;
    for (const char* name : names) {
      if (load(name)) return;
      if (first_reason.empty()) first_reason = description;
    }
    description = "anneal's own kernels, slower than cuBLASLt's: " + first_reason + "; put the folder of libcublasLt into LD_LIBRARY_PATH or the file's path into ANNEAL_CUBLASLT";
  }

 private:
  bool load(const char* name) {
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) return description = dlerror(), false;
    bool complete = true;
    auto find = [&](auto& function, const char* symbol) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, symbol));
      if (!function) complete = false, description = std::string(name) + " lacks " + symbol;
    };
    find(functions.version, "cublasLtGetVersion");
    find(functions.status_name, "cublasLtGetStatusName");
    find(functions.create, "cublasLtCreate");
    find(functions.destroy, "cublasLtDestroy");
    find(functions.create_description, "cublasLtMatmulDescCreate");
    find(functions.set_description, "cublasLtMatmulDescSetAttribute");
    find(functions.destroy_description, "cublasLtMatmulDescDestroy");
    find(functions.create_layout, "cublasLtMatrixLayoutCreate");
    find(functions.set_layout, "cublasLtMatrixLayoutSetAttribute");
    find(functions.destroy_layout, "cublasLtMatrixLayoutDestroy");
    find(functions.create_preference, "cublasLtMatmulPreferenceCreate");
    find(functions.set_preference, "cublasLtMatmulPreferenceSetAttribute");
    find(functions.destroy_preference, "cublasLtMatmulPreferenceDestroy");
    find(functions.choose, "cublasLtMatmulAlgoGetHeuristic");
    find(functions.multiply, "cublasLtMatmul");
    if (!complete) return false;
    Handle handle = nullptr;
    const Status status = functions.create(&handle);
    if (status != Status::success) return description = std::string(name) + " does not start: " + functions.status_name(status), false;
    functions.destroy(handle);
    const size_t version = functions.version();
    description = "cuBLASLt " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
    return loaded = true;
  }
};

const Library& library() {
  static const Library instance;
  return instance;
}

void expect(Status status, const char* what) {
  if (status != Status::success) fail("gemm: cuBLASLt %s failed: %s", what, library().functions.status_name(status));
}

// What a plan depends on.
using Key = std::array<int64_t, 20>;

struct Plan {
  Description description = nullptr;
  Layout a = nullptr, b = nullptr, c = nullptr;
  Algorithm algorithm{};
  size_t workspace = 0;
  bool found = false;
};

// A thread serves one device.
struct Context {
  Handle handle = nullptr;
  bool usable = false;
  std::map<Key, Plan> plans;

  Context() {
    if (!library().loaded) return;
    usable = library().functions.create(&handle) == Status::success;
  }
};
Context& context() {
  thread_local std::map<int, Context> contexts;
  int device = 0;
  cudaGetDevice(&device);
  return contexts[device];
}

DataType type_of(DType dtype) { return dtype == DType::bf16 ? DataType::bf16 : DataType::f32; }
uint32_t alignment_of(const void* p) {
  const uintptr_t lowest = reinterpret_cast<uintptr_t>(p) & (~reinterpret_cast<uintptr_t>(p) + 1);
  return lowest == 0 || lowest > 256 ? 256 : static_cast<uint32_t>(lowest);
}
Epilogue epilogue_of(const Output& out) {
  if (out.activation == Activation::gelu_tanh) {
    if (out.pre) return out.bias ? Epilogue::gelu_aux_bias : Epilogue::gelu_aux;
    return out.bias ? Epilogue::gelu_bias : Epilogue::gelu;
  }
  return out.bias ? Epilogue::bias : Epilogue::none;
}

template <class T> void describe(Description description, DescriptionAttribute attribute, const T& value) {
  expect(library().functions.set_description(description, attribute, &value, sizeof value), "could not describe a product and");
}
Layout layout_of(DType dtype, int64_t rows, int64_t columns, int64_t stride, int64_t step, int64_t batch) {
  const Functions& f = library().functions;
  Layout layout = nullptr;
  expect(f.create_layout(&layout, type_of(dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), stride), "could not describe a matrix and");
  if (batch > 1) {
    const int32_t count = static_cast<int32_t>(batch);
    expect(f.set_layout(layout, LayoutAttribute::batch_count, &count, sizeof count), "could not describe a batch and");
    expect(f.set_layout(layout, LayoutAttribute::batch_step, &step, sizeof step), "could not describe a batch and");
  }
  return layout;
}

// The pointers of bias and pre belong to the call, not to the plan.
void point_epilogue(const Plan& plan, const Output& out) {
  if (out.bias) describe(plan.description, DescriptionAttribute::bias, out.bias);
  if (out.pre) describe(plan.description, DescriptionAttribute::aux, out.pre);
}

Plan make_plan(const Context& context, const Product& p) {
  const Functions& f = library().functions;
  Plan plan;
  expect(f.create_description(&plan.description, ComputeType::f32, DataType::f32), "could not describe a product and");
  describe(plan.description, DescriptionAttribute::transpose_a, p.b.along_k ? Operation::transpose : Operation::none);
  describe(plan.description, DescriptionAttribute::transpose_b, p.a.along_k ? Operation::none : Operation::transpose);
  describe(plan.description, DescriptionAttribute::epilogue, epilogue_of(p.out));
  if (p.out.pre) {
    describe(plan.description, DescriptionAttribute::aux_stride, p.out.stride);
    describe(plan.description, DescriptionAttribute::aux_batch_step, p.m * p.out.stride);
  }
  point_epilogue(plan, p.out);
  plan.a = p.b.along_k ? layout_of(p.b.dtype, p.k, p.n, p.b.stride, p.b.step, p.batch) : layout_of(p.b.dtype, p.n, p.k, p.b.stride, p.b.step, p.batch);
  plan.b = p.a.along_k ? layout_of(p.a.dtype, p.k, p.m, p.a.stride, p.a.step, p.batch) : layout_of(p.a.dtype, p.m, p.k, p.a.stride, p.a.step, p.batch);
  plan.c = layout_of(p.out.c_type, p.n, p.m, p.out.stride, p.m * p.out.stride, p.batch);

  Preference preference = nullptr;
  expect(f.create_preference(&preference), "could not describe a preference and");
  auto prefer = [&](PreferenceAttribute attribute, auto value) { expect(f.set_preference(preference, attribute, &value, sizeof value), "could not describe a preference and"); };
  prefer(PreferenceAttribute::workspace, uint64_t{most_workspace});
  prefer(PreferenceAttribute::reduction, static_cast<uint32_t>(Reduction::compute_type));
  prefer(PreferenceAttribute::alignment_a, alignment_of(p.b.data));
  prefer(PreferenceAttribute::alignment_b, alignment_of(p.a.data));
  prefer(PreferenceAttribute::alignment_c, alignment_of(p.out.c));
  prefer(PreferenceAttribute::alignment_d, alignment_of(p.out.c));
  Choice choice{};
  int count = 0;
  const Status status = f.choose(context.handle, plan.description, plan.a, plan.b, plan.c, plan.c, preference, 1, &choice, &count);
  f.destroy_preference(preference);
  plan.found = status == Status::success && count == 1 && choice.status == Status::success;
  plan.algorithm = choice.algorithm;
  plan.workspace = choice.workspace;
  return plan;
}

void destroy(const Plan& plan) {
  const Functions& f = library().functions;
  f.destroy_description(plan.description);
  f.destroy_layout(plan.a);
  f.destroy_layout(plan.b);
  f.destroy_layout(plan.c);
}

Key key_of(const Product& p) {
  const Output& out = p.out;
  return {p.m, p.n, p.k, p.batch, p.a.stride, p.a.step, p.a.along_k, static_cast<int64_t>(p.a.dtype), alignment_of(p.a.data), p.b.stride, p.b.step, p.b.along_k,
          static_cast<int64_t>(p.b.dtype), alignment_of(p.b.data), out.stride, static_cast<int64_t>(out.c_type), alignment_of(out.c), static_cast<int64_t>(epilogue_of(out)),
          out.bias ? alignment_of(out.bias) : 0, out.pre ? alignment_of(out.pre) : 0};
}

}  // namespace

bool library_usable() { return context().usable; }

bool library_fuses(const Output& out) {
  if (out.bias && out.bias_type != out.c_type) return false;
  if (out.activation == Activation::none) return !out.pre;
  // Its GELU is the one by tanh; its error would show in f32.
  if (out.activation != Activation::gelu_tanh || out.c_type != DType::bf16 || out.accumulate) return false;
  return !out.pre || (out.pre_type == out.c_type && out.stride % 8 == 0 && alignment_of(out.pre) >= 16);
}

bool library_multiply(const Product& p) {
  constexpr size_t most_plans = 4096;
  Context& here = context();
  if (!here.usable || p.k == 0 || p.batch > INT32_MAX) return false;
  const Key key = key_of(p);
  auto found = here.plans.find(key);
  if (found == here.plans.end()) {
    if (here.plans.size() >= most_plans) {
      for (auto& [_, plan] : here.plans) destroy(plan);
      here.plans.clear();
    }
    found = here.plans.emplace(key, make_plan(here, p)).first;
  }
  const Plan& plan = found->second;
  if (!plan.found) return false;
  point_epilogue(plan, p.out);
  const float alpha = 1, beta = p.out.accumulate ? 1 : 0;
  expect(library().functions.multiply(here.handle, plan.description, &alpha, p.b.data, plan.a, p.a.data, plan.b, &beta, p.out.c, plan.c, p.out.c, plan.c, &plan.algorithm,
                                      scratch(plan.workspace), plan.workspace, stream()),
         "multiplication");
  count_launch("gemm");
  return true;
}

}  // namespace anneal::cuda

extern "C" __attribute__((visibility("default"))) const char* anneal_gemm_library() { return anneal::cuda::library().description.c_str(); }

#endif
