// Finds where top-k and top-p cut a row without sorting it: a radix select over the bits of the logits that weighs each
// bin by its number of tokens (top-k) or its probability mass (top-p). Three passes, the later ones over the few tokens
// of one bin.
#pragma once
#include "simd.h"

namespace anneal::cpu {
namespace {

// One row being sampled, in scratch memory of one thread.
struct TokenRow {
  int64_t size;
  float* logit;     // after penalty and temperature; never -0 or NaN
  float* weight;    // e^(logit - the largest logit)
  int32_t* member;  // room for `size` token numbers
  double* bin;      // room for token_bins
};
constexpr int token_bins = 2048;

// The tokens that are left: those above `logit`, and of those equal to it the ones numbered up to `token`. (Which of
// equal logits top-p keeps is not defined by torch.sort; here the lower numbers stay, so that a tiny top-p gives the
// same token as the largest logit does.)
struct Cut {
  float logit;
  int64_t token;
};
constexpr int64_t all_tokens = INT32_MAX;
constexpr Cut no_cut = {-__builtin_inff(), all_tokens};

ANNEAL_INLINE bool is_kept(Cut cut, float logit, int64_t token) {
  return logit > cut.logit || (logit == cut.logit && token <= cut.token);
}

// Unsigned numbers in the order of the floats.
ANNEAL_INLINE uint32_t ordered_bits(float x) {
  uint32_t bits = float_to_bits(x);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}

enum class TokenMeasure { count, mass };

// The token at which the tokens kept by `cut`, taken from the largest down, first reach `wanted` in count or in mass.
// At least one token is kept.
template <TokenMeasure measure> static Cut find_cut(const TokenRow& row, Cut cut, double wanted) {
  auto measured = [&](int64_t token) {
    return measure == TokenMeasure::count ? 1.0 : static_cast<double>(row.weight[token]);
  };
  constexpr int shifts[3] = {21, 10, 0};
  constexpr uint32_t masks[3] = {0x7ff, 0x7ff, 0x3ff};
  double above = 0;  // the measure of the tokens known to lie above
  int64_t members = row.size;
  for (int level = 0; level < 3; ++level) {
    const int shift = shifts[level];
    const uint32_t mask = masks[level];
    auto token_at = [&](int64_t i) { return level == 0 ? i : static_cast<int64_t>(row.member[i]); };
    auto digit = [&](int64_t token) { return (ordered_bits(row.logit[token]) >> shift) & mask; };
    memset(row.bin, 0, token_bins * sizeof(double));
    int lowest = token_bins;
    for (int64_t i = 0; i < members; ++i) {
      int64_t token = token_at(i);
      if (level == 0 && !is_kept(cut, row.logit[token], token)) continue;
      int d = static_cast<int>(digit(token));
      row.bin[d] += measured(token);
      lowest = d < lowest ? d : lowest;
    }
    // Rounding may leave the total just short of `wanted`: then the lowest bin that has tokens it is.
    int chosen = static_cast<int>(mask);
    while (chosen > lowest && !(row.bin[chosen] > 0 && above + row.bin[chosen] >= wanted)) above += row.bin[chosen--];
    int64_t left = 0;
    for (int64_t i = 0; i < members; ++i) {
      int64_t token = token_at(i);
      row.member[left] = static_cast<int32_t>(token);
      bool stays = static_cast<int>(digit(token)) == chosen && (level > 0 || is_kept(cut, row.logit[token], token));
      left += stays ? 1 : 0;
    }
    members = left;
  }
  // The members have one logit and are in order of their numbers.
  int64_t last = 0;
  while (last < members - 1 && (above += measured(row.member[last])) < wanted) ++last;
  return {row.logit[row.member[last]], row.member[last]};
}

}  // namespace
}  // namespace anneal::cpu
