// Matrix products by a library that may be missing (cublaslt.cc).
#pragma once
#include "gemm.h"

namespace anneal::cuda {

// Whether the library could be loaded for this device.
bool library_usable();
// Whether it can do what follows the product, exactly as the kernels here do.
bool library_fuses(const Output& out);
// Computes a product of operands of one dtype, bf16 or f32, whose output library_fuses(). False where the library has no algorithm for it.
bool library_multiply(const Product& product);

}  // namespace anneal::cuda

// The library's name and version, or why products are computed without it. Valid for good.
extern "C" const char* anneal_gemm_library();
