// AdamW whose moments are kept in eight bits: the codes of bitsandbytes' two dynamic maps, with one scale for each 256 numbers. A block is widened to f32,
// updated as adamw does it, and rounded to the nearest codes again. The code is looked up by the leading bits of a number and corrected by one comparison.
#include "../dynamic_maps.h"
#include "isa.h"
#include "quantize.h"

#include <cmath>

namespace anneal::cpu::ANNEAL_ISA {
namespace {

constexpr int64_t block = 256, blocks_per_task = 32;

// For each leading part of |x| (exponent and seven bits) the code of the least |x| with it. An interval between two codes is never shorter than such a part,
// so x itself has that code or the next one.
constexpr int key_shift = 16, lowest_key = 104 << 7, key_count = (127 << 7) - lowest_key + 1;
struct Codes {
  uint8_t of[key_count];
};
constexpr float key_start(int key) {
  const int exponent = (key + lowest_key) / 128 - 127, fraction = key % 128;
  float x = 1 + static_cast<float>(fraction) / 128;
  for (int i = 0; i > exponent; --i) x /= 2;
  return key == 0 ? 0 : x;
}
constexpr Codes codes_from(const float* map, float sign) {
  Codes codes = {};
  int code = sign > 0 ? 0 : 255;
  for (int key = 0; key < key_count; ++key) {
    const float x = sign * key_start(key);
    if (sign > 0) while (code < 255 && x > middle(map, code)) ++code;
    else while (code > 0 && !(x > middle(map, code - 1))) --code;
    codes.of[key] = static_cast<uint8_t>(code);
  }
  return codes;
}
constexpr Codes positive_codes = codes_from(dynamic_map, 1), negative_codes = codes_from(dynamic_map, -1),
                unsigned_codes = codes_from(dynamic_unsigned_map, 1);

ANNEAL_INLINE int key_of(float x) {
  const int key = static_cast<int>((float_to_bits(x) & 0x7fffffffu) >> key_shift) - lowest_key;
  return key < 0 ? 0 : key < key_count ? key : key_count - 1;
}
ANNEAL_INLINE int rising_code(const Codes& codes, const float* map, float x) {
  const int code = codes.of[key_of(x)];
  return code + (code < 255 && x > middle(map, code));
}
ANNEAL_INLINE int signed_code(float x) {
  if (x >= 0) return rising_code(positive_codes, dynamic_map, x);
  const int code = negative_codes.of[key_of(x)];
  return code - (code > 0 && !(x > middle(dynamic_map, code - 1)));
}

struct Adam {
  float decay, step_size, gradient_weight, beta2, square_weight, correction, eps, factor;
};

struct State {
  uint8_t *first, *second;
  float *first_scale, *second_scale;
};

// The largest magnitude; NaN where there is one.
float largest(const float* x, int64_t n) {
  vi top = {};
  each_vector(n, [&](int64_t i, auto span) {
    const vi size = (vi)load(x + i, span) & 0x7fffffff;
    top = top > size ? top : size;
  });
  int32_t most = 0;
  for (int i = 0; i < lanes; ++i) most = top[i] > most ? top[i] : most;
  return bits_to_float(static_cast<uint32_t>(most));
}

template <class Parameter, class Gradient>
void step_block(const Adam& a, Parameter* parameter, const State& state, const Gradient* gradient, int64_t n) {
  float first[block], second[block];
  for (int64_t i = 0; i < n; ++i) {
    first[i] = dynamic_map[state.first[i]];
    second[i] = dynamic_unsigned_map[state.second[i]];
  }
  const float old_first = *state.first_scale, old_second = *state.second_scale;
  each_vector(n, [&](int64_t i, auto span) {
    const vf g = load(gradient + i, span) * a.factor;
    const vf m = load(first + i, span) * old_first, v = load(second + i, span) * old_second;
    const vf new_first = m + a.gradient_weight * (g - m), new_second = v * a.beta2 + a.square_weight * g * g;
    const vf p = load(parameter + i, span) * a.decay - a.step_size * new_first / (sqrt(new_second) / a.correction + a.eps);
    store(parameter + i, p, span);
    store(first + i, new_first, span);
    store(second + i, new_second, span);
  });
  const float first_scale = largest(first, n), second_scale = largest(second, n);
  const float first_factor = first_scale > 0 ? 1 / first_scale : 0, second_factor = second_scale > 0 ? 1 / second_scale : 0;
  for (int64_t i = 0; i < n; ++i) {
    state.first[i] = static_cast<uint8_t>(signed_code(first[i] * first_factor));
    state.second[i] = static_cast<uint8_t>(rising_code(unsigned_codes, dynamic_unsigned_map, second[i] * second_factor));
  }
  *state.first_scale = first_scale;
  *state.second_scale = second_scale;
}

}  // namespace

void adamw_8bit(InOuts parameter, InOuts first, InOuts second, InOuts first_scale, InOuts second_scale, Outs half_copy, Ins gradient, MaybeIn factor,
                Numbers learning_rate, double beta1, double beta2, double eps, Numbers weight_decay, int64_t step) {
  const float scale = factor ? factor->as<const float>()[0] : 1;
  if (scale != scale) return;
  const double correction1 = 1 - ::pow(beta1, static_cast<double>(step)), correction2 = 1 - ::pow(beta2, static_cast<double>(step));
  for (int64_t i = 0; i < parameter.count; ++i) {
    const Adam a = {static_cast<float>(1 - learning_rate[i] * weight_decay[i]), static_cast<float>(learning_rate[i] / correction1),
                    static_cast<float>(1 - beta1), static_cast<float>(beta2), static_cast<float>(1 - beta2),
                    static_cast<float>(::sqrt(correction2)), static_cast<float>(eps), scale};
    const int64_t size = parameter[i].size, blocks = (size + block - 1) / block;
    const State state = {first[i].as<uint8_t>(), second[i].as<uint8_t>(), first_scale[i].as<float>(), second_scale[i].as<float>()};
    bf16* half = half_copy.count ? half_copy[i].as<bf16>() : nullptr;
    auto run = [&]<class P, class G>(P* p, const G* g) {
      parallel_for(blocks, blocks_per_task, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          const int64_t from = b * block, n = smallest(block, size - from);
          step_block(a, p + from, {state.first + from, state.second + from, state.first_scale + b, state.second_scale + b}, g + from, n);
          if (half) each_vector(n, [&](int64_t k, auto span) { store(half + from + k, load(p + from + k, span), span); });
        }
      });
    };
    auto with_gradient = [&](auto* p) {
      if (gradient[i].dtype == DType::f32) run(p, gradient[i].as<const float>());
      else run(p, gradient[i].as<const bf16>());
    };
    if (parameter[i].dtype == DType::f32) with_gradient(parameter[i].as<float>());
    else with_gradient(parameter[i].as<bf16>());
  }
}

}  // namespace anneal::cpu::ANNEAL_ISA
