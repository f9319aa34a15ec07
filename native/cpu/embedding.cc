// Rows of an embedding table, and its gradient. The gradient of one id is summed in token order whatever the number of
// threads: threads share the columns, and each walks all tokens.
#include "isa.h"
#include "simd.h"

namespace anneal::cpu::ANNEAL_ISA {

namespace {

constexpr int64_t elements_per_task = 16384;
constexpr int64_t fewest_columns = 64;  // per thread, four cache lines

void check_ids(const char* kernel, const Tensor& id, int64_t vocabulary) {
  const int32_t* ids = id.as<const int32_t>();
  for (int64_t t = 0; t < id.size; ++t)
    ANNEAL_CHECK(ids[t] >= 0 && ids[t] < vocabulary, "%s: id[%lld] is %d, outside the vocabulary of %lld", kernel,
                 static_cast<long long>(t), ids[t], static_cast<long long>(vocabulary));
}

template <class T> void add_rows(float* dweight, const T* dy, const int32_t* id, int64_t tokens, int64_t width) {
  const int64_t pieces = (width + lanes - 1) / lanes;
  const int64_t grain = elements_per_task / (tokens > 0 ? tokens : 1) / lanes;
  parallel_for(
      pieces, grain > fewest_columns / lanes ? grain : fewest_columns / lanes, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * lanes, last = end * lanes < width ? end * lanes : width;
        for (int64_t t = 0; t < tokens; ++t) {
          float* to = dweight + id[t] * width + first;
          const T* from = dy + t * width + first;
          each_vector(last - first,
                      [&](int64_t i, auto span) { store(to + i, load(to + i, span) + load(from + i, span), span); });
        }
      });
}

}  // namespace

void embedding(Out y, In weight, In id) {
  check_ids("embedding", id, weight.dim(0));
  const size_t row_bytes = static_cast<size_t>(weight.columns()) * static_cast<size_t>(bytes_of(weight.dtype));
  const int64_t grain = elements_per_task / (weight.columns() > 0 ? weight.columns() : 1) + 1;
  parallel_for(id.size, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      memcpy(y.as<char>() + static_cast<size_t>(t) * row_bytes,
             weight.as<const char>() + static_cast<size_t>(id.as<const int32_t>()[t]) * row_bytes, row_bytes);
  });
}

void embedding_backward(InOut dweight, In dy, In id, bool accumulate) {
  check_ids("embedding_backward", id, dweight.dim(0));
  if (!accumulate)
    parallel_for(dweight.size, elements_per_task * 4, [&](int64_t begin, int64_t end) {
      memset(dweight.as<float>() + begin, 0, static_cast<size_t>(end - begin) * sizeof(float));
    });
  const int32_t* ids = id.as<const int32_t>();
  if (dy.dtype == DType::f32) add_rows(dweight.as<float>(), dy.as<const float>(), ids, id.size, dweight.columns());
  else add_rows(dweight.as<float>(), dy.as<const bf16>(), ids, id.size, dweight.columns());
}

}  // namespace anneal::cpu::ANNEAL_ISA
