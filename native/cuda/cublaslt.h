// The part of NVIDIA's cuBLASLt that this backend calls, declared here so that neither its header nor the library is needed to build: the library is loaded
// when the first product asks for it. Values and layouts are those of its versions 11 to 13, where they are the same.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace anneal::cuda::cublaslt {

enum class Status : int { success = 0, not_supported = 15 };
enum class ComputeType : int { f32 = 68 };
enum class DataType : int { f32 = 0, bf16 = 14 };
enum class Operation : int32_t { none = 0, transpose = 1 };
enum class Epilogue : uint32_t { none = 1, bias = 4, gelu = 32, gelu_bias = 36, gelu_aux = 160, gelu_aux_bias = 164 };
enum class Reduction : uint32_t { compute_type = 2 };

enum class DescriptionAttribute : int { transpose_a = 3, transpose_b = 4, epilogue = 7, bias = 8, aux = 11, aux_stride = 12, aux_batch_step = 13 };
enum class LayoutAttribute : int { batch_count = 5, batch_step = 6 };
enum class PreferenceAttribute : int { workspace = 1, reduction = 3, alignment_a = 5, alignment_b = 6, alignment_c = 7, alignment_d = 8 };

typedef struct LibraryContext* Handle;
typedef struct LibraryDescription* Description;
typedef struct LibraryLayout* Layout;
typedef struct LibraryPreference* Preference;

struct Algorithm {
  uint64_t data[8];
};
struct Choice {
  Algorithm algorithm;
  size_t workspace;
  Status status;
  float waves;
  int reserved[4];
};

struct Functions {
  size_t (*version)();
  const char* (*status_name)(Status);
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  Status (*create_description)(Description*, ComputeType, DataType scale);
  Status (*set_description)(Description, DescriptionAttribute, const void* value, size_t bytes);
  Status (*destroy_description)(Description);
  // Column-major: `stride` elements from one column to the next.
  Status (*create_layout)(Layout*, DataType, uint64_t rows, uint64_t columns, int64_t stride);
  Status (*set_layout)(Layout, LayoutAttribute, const void* value, size_t bytes);
  Status (*destroy_layout)(Layout);
  Status (*create_preference)(Preference*);
  Status (*set_preference)(Preference, PreferenceAttribute, const void* value, size_t bytes);
  Status (*destroy_preference)(Preference);
  Status (*choose)(Handle, Description, Layout a, Layout b, Layout c, Layout d, Preference, int wanted, Choice* choices, int* found);
  // d = alpha op(a) op(b) + beta c, then the epilogue.
  Status (*multiply)(Handle, Description, const void* alpha, const void* a, Layout, const void* b, Layout, const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*,
                     void* workspace, size_t workspace_bytes, cudaStream_t);
};

}  // namespace anneal::cuda::cublaslt
