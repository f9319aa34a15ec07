// What attention and its backward make of their arguments, and the check of what spans hold.
#pragma once
#include "attention.h"

namespace anneal::cpu {
namespace {

// Every query belongs to exactly one sequence and keys lie inside k; with keys_apart no key belongs to two sequences.
static void check_spans(const char* kernel, In spans, int64_t tokens, int64_t slots, bool keys_apart) {
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

static Attention describe_attention(In q, In k, In spans, double scale, bool causal, int64_t window, double soft_cap) {
  Attention a;
  a.tokens = q.dim(0), a.heads = q.dim(1), a.kv_heads = k.dim(1), a.head_dim = q.dim(2), a.sequences = spans.dim(0);
  a.spans = spans.as<int32_t>();
  a.scale = static_cast<float>(scale), a.soft_cap = static_cast<float>(soft_cap);
  a.causal = causal, a.window = window;
  return a;
}

}  // namespace
}  // namespace anneal::cpu
