// Binds every kernel of kernels.def to JavaScript.
#pragma once
#include <napi.h>

namespace anneal {

// { rms_norm(y, rstd, …), … }: each checks its arguments, resolves the handles and enqueues the call.
Napi::Object bind_kernels(Napi::Env env);
// { rms_norm: "(Out y, Out rstd, …)", … }, from which lib/kernels.d.ts is generated.
Napi::Object kernel_signatures(Napi::Env env);

}  // namespace anneal
