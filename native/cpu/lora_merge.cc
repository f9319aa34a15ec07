// A low-rank update added to a weight in place, in f32 and rounded once. A tile of the weight is read and written once, with nothing packed: the factors
// are small enough for the cache. A quantised weight goes through panels of rows in f32, so that the exact sum never exists whole.
#include "isa.h"
#include "quantize.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

enum Slot { factor_slot = 6, panel_slot = 7 };
constexpr int64_t panel_numbers = int64_t{1} << 20;
constexpr int tile_rows = 6, tile_vectors = 2, tile_columns = tile_vectors * lanes;

// b [out, rank] and a [rank, in] of a weight [out, in].
void check_factors(const char* kernel, const Tensor& b, const Tensor& a, int64_t out, int64_t in) {
  ANNEAL_CHECK(is_float(b.dtype) && is_float(a.dtype), "%s: b and a must be f32 or bf16, but are %s and %s", kernel,
               name_of(b.dtype), name_of(a.dtype));
  ANNEAL_CHECK(b.rank == 2 && b.shape[0] == out, "%s: b must have shape [%lld, rank], but has %s", kernel,
               static_cast<long long>(out), ShapeText(b).text);
  ANNEAL_CHECK(a.rank == 2 && a.shape[1] == in && a.shape[0] == b.shape[1], "%s: a must have shape [%lld, %lld], but has %s",
               kernel, static_cast<long long>(b.shape[1]), static_cast<long long>(in), ShapeText(a).text);
}

// weight [rows, columns] += left [rows, rank] right [rank, columns].
struct Update {
  const float *left, *right;
  int64_t rank, columns;
};

// A tile of `rows` rows; Span says how many of its last vector's columns exist, vectors how many vectors.
template <int rows, int vectors, class T, class Span>
ANNEAL_INLINE void add_tile(T* weight, const float* left, const float* right, const Update& u, Span last) {
  vf sums[rows][vectors] = {};
  for (int64_t k = 0; k < u.rank; ++k) {
    vf b[vectors];
    ANNEAL_UNROLL
    for (int v = 0; v < vectors; ++v) b[v] = v + 1 < vectors ? load(right + k * u.columns + v * lanes) : load(right + k * u.columns + v * lanes, last);
    ANNEAL_UNROLL
    for (int i = 0; i < rows; ++i) {
      ANNEAL_UNROLL
      for (int v = 0; v < vectors; ++v) sums[i][v] = fused_multiply_add(splat(left[i * u.rank + k]), b[v], sums[i][v]);
    }
  }
  ANNEAL_UNROLL
  for (int i = 0; i < rows; ++i) {
    ANNEAL_UNROLL
    for (int v = 0; v < vectors; ++v) {
      T* at = weight + i * u.columns + v * lanes;
      if (v + 1 < vectors) store(at, load(at) + sums[i][v]);
      else store(at, load(at, last) + sums[i][v], last);
    }
  }
}
template <int rows, class T> void add_rows(T* weight, const float* left, const Update& u) {
  int64_t j = 0;
  for (; j + tile_columns <= u.columns; j += tile_columns) add_tile<rows, tile_vectors>(weight + j, left, u.right + j, u, Whole{});
  for (; j < u.columns; j += lanes) {
    if (j + lanes <= u.columns) add_tile<rows, 1>(weight + j, left, u.right + j, u, Whole{});
    else add_tile<rows, 1>(weight + j, left, u.right + j, u, Part{u.columns - j});
  }
}
// Rows begin … end, on this thread.
template <class T> void add_update(T* weight, const Update& u, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + tile_rows <= end; i += tile_rows) add_rows<tile_rows>(weight + i * u.columns, u.left + i * u.rank, u);
  for (; i < end; ++i) add_rows<1>(weight + i * u.columns, u.left + i * u.rank, u);
}

// x [rows, columns] times factor in f32, transposed if asked.
void widen(float* to, const Tensor& x, float factor, bool transposed) {
  const int64_t rows = x.shape[0], columns = x.shape[1];
  auto run = [&](auto* from) {
    if (!transposed) {
      each_vector(x.size, [&](int64_t i, auto span) { store(to + i, load(from + i, span) * factor, span); });
      return;
    }
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) to[j * rows + i] = to_float(from[i * columns + j]) * factor;
  };
  if (x.dtype == DType::f32) run(x.as<const float>());
  else run(x.as<const bf16>());
}
// The update scale * b a, or its transpose a^T (scale * b)^T.
Update update_of(const Tensor& b, const Tensor& a, double scale, bool transposed) {
  float* memory = static_cast<float*>(pool().scratch(factor_slot, static_cast<size_t>(a.size + b.size + lanes) * 4));
  float *left = memory, *right = memory + (transposed ? a.size : b.size);
  const float factor = static_cast<float>(scale);
  widen(transposed ? right : left, b, factor, transposed);
  widen(transposed ? left : right, a, 1, transposed);
  return {left, right, a.shape[0], transposed ? b.shape[0] : a.shape[1]};
}
// Rows worth a thread's while.
int64_t rows_per_task(int64_t columns) { return 8192 / (columns + 1) + 1; }

// Sums of squares: of what rounding changed, and of the exact numbers.
struct Energy {
  double error, exact;
};

// Rounds one row again; false where it is not finite.
bool requantize_row(const float* row, const QuantizedShape& shape, QuantizedFormat format, uint8_t* codes, float* scales,
                    uint8_t* zeros, Energy& energy) {
  energy = {0, 0};
  bool finite = true;
  for (int64_t from = 0; from < shape.columns; from += shape.block) {
    const int64_t index = from / shape.block;
    uint8_t* own = codes + (is_four_bit(format) ? from / 2 : from);
    if (!quantize_block(row + from, shape.block, format, own, scales + index, zeros ? zeros + index : nullptr)) {
      finite = false;
      continue;
    }
    for (int64_t at = 0; at < shape.block; at += piece) {
      float rounded[piece];
      const int64_t n = smallest(piece, shape.block - at);
      dequantize_block(rounded, n, own + (is_four_bit(format) ? at / 2 : at), scales[index], zeros ? zeros[index] : 0,
                       format, zeros != nullptr);
      vf error = {}, exact = {};
      each_vector(n, [&](int64_t i, auto span) {
        const vf x = load(row + from + at + i, span), difference = load(rounded + i, span) - x;
        error += difference * difference;
        exact += x * x;
      });
      energy.error += static_cast<double>(sum(error));
      energy.exact += static_cast<double>(sum(exact));
    }
  }
  return finite;
}

}  // namespace

void lora_merge(InOut weight, In b, In a, double scale, bool transposed) {
  ANNEAL_CHECK(is_float(weight.dtype), "lora_merge: weight must be f32 or bf16, but is %s", name_of(weight.dtype));
  ANNEAL_CHECK(weight.rank == 2, "lora_merge: weight must have two axes, but has shape %s", ShapeText(weight).text);
  check_factors("lora_merge", b, a, weight.shape[transposed ? 1 : 0], weight.shape[transposed ? 0 : 1]);
  if (b.shape[1] == 0) return;
  const Update update = update_of(b, a, scale, transposed);
  parallel_for(weight.shape[0], rows_per_task(update.columns), [&](int64_t begin, int64_t end) {
    if (weight.dtype == DType::f32) add_update(weight.as<float>(), update, begin, end);
    else add_update(weight.as<bf16>(), update, begin, end);
  });
}

void lora_merge_quantized(InOut codes, InOut scales, MaybeInOut zeros, Out error, In b, In a, double scale, int64_t format) {
  const QuantizedFormat kind = check_format("lora_merge_quantized", format);
  ANNEAL_CHECK(b.rank == 2 && a.rank == 2, "lora_merge_quantized: b and a must have two axes, but have shapes %s and %s",
               ShapeText(b).text, ShapeText(a).text);
  const QuantizedShape shape = check_weight("lora_merge_quantized", codes, scales, zeros, b.shape[0], a.shape[1], kind);
  check_factors("lora_merge_quantized", b, a, shape.rows, shape.columns);
  check_dtype("lora_merge_quantized", "error", error, DType::f64);
  ANNEAL_CHECK(error.size == 2, "lora_merge_quantized: error must have two elements, but has shape %s", ShapeText(error).text);
  const Update update = update_of(b, a, scale, false);
  const int64_t rows_each = shape.columns > 0 ? smallest(shape.rows, panel_numbers / shape.columns + 1) : shape.rows,
                code_bytes = is_four_bit(kind) ? shape.columns / 2 : shape.columns, blocks = scales.shape[1];
  const size_t panel_bytes = (static_cast<size_t>(rows_each * shape.columns) * 4 + 63) / 64 * 64;
  char* memory = static_cast<char*>(pool().scratch(panel_slot, panel_bytes + static_cast<size_t>(rows_each) * sizeof(Energy) + 64));
  float* panel = reinterpret_cast<float*>(memory);
  Energy *energies = reinterpret_cast<Energy*>(memory + panel_bytes), total = {0, 0};
  bool finite = true;
  for (int64_t first = 0; first < shape.rows; first += rows_each) {
    const int64_t rows = smallest(rows_each, shape.rows - first);
    uint8_t* own_codes = codes.as<uint8_t>() + first * code_bytes;
    float* own_scales = scales.as<float>() + first * blocks;
    uint8_t* own_zeros = zeros ? zeros->as<uint8_t>() + first * blocks : nullptr;
    parallel_for(rows, rows_per_task(shape.columns), [&](int64_t begin, int64_t end) {
      // A few rows at a time, which stay in the cache from widening to rounding.
      for (int64_t from = begin; from < end; from += tile_rows) {
        const int64_t to = smallest(from + tile_rows, end);
        for (int64_t i = from * blocks; i < to * blocks; ++i)
          dequantize_block(panel + i * shape.block, shape.block, own_codes + (is_four_bit(kind) ? i * shape.block / 2 : i * shape.block), own_scales[i],
                           own_zeros ? own_zeros[i] : 0, kind, own_zeros != nullptr);
        add_update(panel, {update.left + first * update.rank, update.right, update.rank, update.columns}, from, to);
        for (int64_t r = from; r < to; ++r)
          if (!requantize_row(panel + r * shape.columns, shape, kind, own_codes + r * code_bytes, own_scales + r * blocks,
                              own_zeros ? own_zeros + r * blocks : nullptr, energies[r]))
            __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
      }
    });
    for (int64_t r = 0; r < rows; ++r) total = {total.error + energies[r].error, total.exact + energies[r].exact};
  }
  ANNEAL_CHECK(finite, "lora_merge_quantized: the merged weight has numbers that are not finite; the blocks that hold them are unchanged");
  error.as<double>()[0] = total.error;
  error.as<double>()[1] = total.exact;
}

}  // namespace anneal::cpu::ANNEAL_ISA
