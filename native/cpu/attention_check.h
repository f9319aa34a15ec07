// The checks that attention and its backward share.
#pragma once
#include "attention.h"

namespace anneal::cpu {
namespace {

static void check_like(const char* kernel, const char* name, In x, In model, const char* model_name) {
  bool same = x.rank == model.rank && x.dtype == model.dtype;
  for (int i = 0; same && i < x.rank; ++i) same = x.shape[i] == model.shape[i];
  ANNEAL_CHECK(same, "%s: %s must have the shape and dtype of %s", kernel, name, model_name);
}

// Every query belongs to exactly one sequence and keys lie inside k; with keys_apart no key belongs to two sequences.
static void check_spans(const char* kernel, In spans, int64_t tokens, int64_t slots, bool keys_apart) {
  ANNEAL_CHECK(spans.dtype == DType::i32 && spans.rank == 2 && spans.dim(1) == 4,
               "%s: spans must be i32 [sequences, 4]", kernel);
  const int64_t marks = larger(tokens, slots);
  uint8_t* mark = static_cast<uint8_t*>(pool().scratch(mark_slot, static_cast<size_t>(larger(1, marks))));
  auto claim = [&](int64_t sequence, int64_t begin, int64_t length, int64_t limit, const char* what) {
    ANNEAL_CHECK(begin >= 0 && length >= 0 && begin + length <= limit,
                 "%s: spans[%lld]: %s %lld to %lld are outside the %lld of the tensor", kernel,
                 static_cast<long long>(sequence), what, static_cast<long long>(begin),
                 static_cast<long long>(begin + length), static_cast<long long>(limit));
  };
  auto mark_once = [&](int64_t sequence, int64_t begin, int64_t length, const char* what) {
    for (int64_t i = begin; i < begin + length; ++i) {
      ANNEAL_CHECK(!mark[i], "%s: spans[%lld]: %s %lld belongs to two sequences", kernel,
                   static_cast<long long>(sequence), what, static_cast<long long>(i));
      mark[i] = 1;
    }
  };
  const int32_t* span = spans.as<int32_t>();
  const int64_t sequences = spans.dim(0);
  int64_t covered = 0;
  memset(mark, 0, static_cast<size_t>(tokens));
  for (int64_t s = 0; s < sequences; ++s) {
    claim(s, span[4 * s], span[4 * s + 1], tokens, "queries");
    claim(s, span[4 * s + 2], span[4 * s + 3], slots, "keys");
    mark_once(s, span[4 * s], span[4 * s + 1], "query");
    covered += span[4 * s + 1];
  }
  ANNEAL_CHECK(covered == tokens, "%s: spans cover %lld of %lld queries", kernel, static_cast<long long>(covered),
               static_cast<long long>(tokens));
  if (!keys_apart) return;
  memset(mark, 0, static_cast<size_t>(slots));
  for (int64_t s = 0; s < sequences; ++s) mark_once(s, span[4 * s + 2], span[4 * s + 3], "key");
}

static Attention check_attention(const char* kernel, In q, In k, In v, In out, In lse, In spans, double scale,
                                 bool causal, int64_t window, double soft_cap, bool keys_apart) {
  ANNEAL_CHECK(q.rank == 3 && k.rank == 3,
               "%s: q must have shape [tokens, heads, head_dim] and k [slots, kv_heads, head_dim]", kernel);
  ANNEAL_CHECK(q.dtype == DType::f32 || q.dtype == DType::bf16, "%s: q must be f32 or bf16, but is %s", kernel,
               dtype_names[static_cast<int>(q.dtype)]);
  ANNEAL_CHECK(k.dtype == q.dtype, "%s: k must be %s like q, but is %s", kernel, dtype_names[static_cast<int>(q.dtype)],
               dtype_names[static_cast<int>(k.dtype)]);
  const int64_t head_dim = q.dim(2);
  ANNEAL_CHECK(head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0,
               "%s: head_dim must be a multiple of 8 up to 256, but is %lld", kernel, static_cast<long long>(head_dim));
  ANNEAL_CHECK(k.dim(2) == head_dim, "%s: k must have head_dim %lld like q, but has %lld", kernel,
               static_cast<long long>(head_dim), static_cast<long long>(k.dim(2)));
  ANNEAL_CHECK(k.dim(1) > 0 && q.dim(1) > 0 && q.dim(1) % k.dim(1) == 0,
               "%s: heads must be a multiple of kv_heads, but are %lld and %lld", kernel,
               static_cast<long long>(q.dim(1)), static_cast<long long>(k.dim(1)));
  check_like(kernel, "v", v, k, "k");
  check_like(kernel, "out", out, q, "q");
  ANNEAL_CHECK(lse.dtype == DType::f32 && lse.rank == 2 && lse.dim(0) == q.dim(0) && lse.dim(1) == q.dim(1),
               "%s: lse must be f32 [tokens, heads] = [%lld, %lld]", kernel, static_cast<long long>(q.dim(0)),
               static_cast<long long>(q.dim(1)));
  ANNEAL_CHECK(scale > 0, "%s: scale must be positive, but is %g", kernel, scale);
  ANNEAL_CHECK(window >= 0 && soft_cap >= 0, "%s: window and soft_cap must not be negative", kernel);
  check_spans(kernel, spans, q.dim(0), k.dim(0), keys_apart);
  Attention a;
  a.tokens = q.dim(0), a.heads = q.dim(1), a.kv_heads = k.dim(1), a.head_dim = head_dim, a.sequences = spans.dim(0);
  a.spans = spans.as<int32_t>();
  a.scale = static_cast<float>(scale), a.soft_cap = static_cast<float>(soft_cap);
  a.causal = causal, a.window = window;
  return a;
}

}  // namespace
}  // namespace anneal::cpu
