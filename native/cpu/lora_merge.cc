// A low-rank update added to a weight in place, in f32 and rounded once. A tile of the weight is read and written once, and asked of memory some tiles
// before; the right factor lies in tiles of columns, each of which serves several tiles of rows from the first cache. A quantised weight goes through
// panels of rows in f32, so that the exact sum never exists whole.
#include <type_traits>

#include "isa.h"
#include "quantize.h"

namespace anneal::cpu::ANNEAL_ISA {
namespace {

enum Slot { factor_slot = 6, panel_slot = 7 };
constexpr int64_t panel_numbers = int64_t{1} << 20;
constexpr int tile_rows = 6, tile_vectors = 2, tile_columns = tile_vectors * lanes;
constexpr int64_t group_rows = 4 * tile_rows;         // that share a tile of the right factor while it is in the first cache
constexpr int64_t ahead = 4 * tile_columns;           // how many columns before its turn a tile of the weight is asked for

// weight [rows, columns] += left [rows, rank] right [rank, columns]. right lies in tiles of tile_columns columns, [rank, tile_columns] each, the last filled
// up; for a bf16 weight a tile has its even columns in the first vector and the odd ones in the second, as the halves of 32-bit words.
struct Update {
  const float *left, *right;
  int64_t rank, columns;
};

// The two vectors of a tile's row: added to, and the sums kept.
ANNEAL_INLINE void add_weight(const float* at, vf& first, vf& second) {
  first += load(at);
  second += load(at + lanes);
}
ANNEAL_INLINE void add_weight(const bf16* at, vf& even, vf& odd) {
  const vu words = *reinterpret_cast<const vu_unaligned*>(at);
  even += (vf)(words << 16);
  odd += (vf)(words & 0xffff0000u);
}
ANNEAL_INLINE void store_row(float* at, vf first, vf second) {
  store(at, first);
  store(at + lanes, second);
}
// To nearest even. A NaN stays one: those of the factors are the usual one (clean), those of a bf16 weight end in zeros, and neither carries over.
ANNEAL_INLINE vu rounded_bits(vf x) { return (vu)x + 0x7fff + ((vu)x >> 16 & 1); }
ANNEAL_INLINE void store_row(bf16* at, vf even, vf odd) { *reinterpret_cast<vu_unaligned*>(at) = rounded_bits(even) >> 16 | (rounded_bits(odd) & 0xffff0000u); }

// A tile of `rows` rows that are `stride` apart.
template <int rows, class T> ANNEAL_INLINE void add_tile(T* weight, int64_t stride, const float* left, const float* right, int64_t rank) {
  vf first[rows] = {}, second[rows] = {};
  for (int64_t k = 0; k < rank; ++k) {
    const vf b = load(right + k * tile_columns), c = load(right + k * tile_columns + lanes);
    ANNEAL_UNROLL
    for (int i = 0; i < rows; ++i) {
      const vf a = splat(left[i * rank + k]);
      first[i] = fused_multiply_add(a, b, first[i]);
      second[i] = fused_multiply_add(a, c, second[i]);
    }
  }
  ANNEAL_UNROLL
  for (int i = 0; i < rows; ++i) {
    add_weight(weight + i * stride, first[i], second[i]);
    store_row(weight + i * stride, first[i], second[i]);
  }
}
// A tile of which `columns` exist, through memory of its own.
template <int rows, class T> void add_part(T* weight, int64_t stride, const float* left, const float* right, int64_t rank, int64_t columns) {
  T part[rows * tile_columns] = {};
  for (int i = 0; i < rows; ++i) memcpy(part + i * tile_columns, weight + i * stride, static_cast<size_t>(columns) * sizeof(T));
  add_tile<rows>(part, tile_columns, left, right, rank);
  for (int i = 0; i < rows; ++i) memcpy(weight + i * stride, part + i * tile_columns, static_cast<size_t>(columns) * sizeof(T));
}
// Rows begin … end, on this thread.
template <class T> void add_update(T* weight, const Update& u, int64_t begin, int64_t end) {
  const auto tiles = [&]<int rows>(std::integral_constant<int, rows>, int64_t row, int64_t column, const float* right) {
    T* at = weight + row * u.columns + column;
    const float* left = u.left + row * u.rank;
    if (column + tile_columns <= u.columns) {
      ANNEAL_UNROLL
      for (int i = 0; i < rows; ++i) __builtin_prefetch(at + i * u.columns + ahead, 1);
      add_tile<rows>(at, u.columns, left, right, u.rank);
    } else add_part<rows>(at, u.columns, left, right, u.rank, u.columns - column);
  };
  for (int64_t from = begin; from < end; from += group_rows) {
    const int64_t to = smallest(from + group_rows, end);
    const float* right = u.right;
    for (int64_t j = 0; j < u.columns; j += tile_columns, right += u.rank * tile_columns) {
      int64_t i = from;
      for (; i + tile_rows <= to; i += tile_rows) tiles(std::integral_constant<int, tile_rows>{}, i, j, right);
      for (; i < to; ++i) tiles(std::integral_constant<int, 1>{}, i, j, right);
    }
  }
}

ANNEAL_INLINE float clean(float x) { return x == x ? x : bits_to_float(0x7fc00000u); }

// x [rows, columns] times factor in f32, transposed if asked.
void widen(float* to, const Tensor& x, float factor, bool transposed) {
  const int64_t rows = x.shape[0], columns = x.shape[1];
  auto run = [&](auto* from) {
    if (!transposed) {
      for (int64_t i = 0; i < x.size; ++i) to[i] = clean(to_float(from[i]) * factor);
      return;
    }
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) to[j * rows + i] = clean(to_float(from[i * columns + j]) * factor);
  };
  if (x.dtype == DType::f32) run(x.as<const float>());
  else run(x.as<const bf16>());
}
// The same [rank, columns] in tiles of columns, as Update has them.
void widen_tiles(float* to, const Tensor& x, float factor, bool transposed, bool interleaved) {
  const int64_t rank = x.shape[transposed ? 1 : 0], columns = x.shape[transposed ? 0 : 1], row_stride = transposed ? 1 : columns, column_stride = transposed ? rank : 1;
  auto run = [&](auto* from) {
    for (int64_t j = 0; j < columns; j += tile_columns)
      for (int64_t k = 0; k < rank; ++k, to += tile_columns)
        for (int64_t c = 0; c < tile_columns; ++c)
          to[interleaved ? c % 2 * lanes + c / 2 : c] = j + c < columns ? clean(to_float(from[k * row_stride + (j + c) * column_stride]) * factor) : 0;
  };
  if (x.dtype == DType::f32) run(x.as<const float>());
  else run(x.as<const bf16>());
}
// The update scale * b a, or its transpose a^T (scale * b)^T, of a weight of some dtype.
Update update_of(const Tensor& b, const Tensor& a, double scale, bool transposed, DType dtype) {
  const Tensor &first = transposed ? a : b, &second = transposed ? b : a;
  const int64_t rank = a.shape[0], columns = transposed ? b.shape[0] : a.shape[1], tiles = (columns + tile_columns - 1) / tile_columns;
  float* right = static_cast<float*>(pool().scratch(factor_slot, static_cast<size_t>(tiles * tile_columns * rank + first.size + lanes) * 4));
  float* left = right + tiles * tile_columns * rank;
  const float factor = static_cast<float>(scale);
  widen(left, first, transposed ? 1 : factor, transposed);
  widen_tiles(right, second, transposed ? factor : 1, transposed, dtype == DType::bf16);
  return {left, right, rank, columns};
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
      dequantize_block(rounded, n, own + (is_four_bit(format) ? at / 2 : at), scales[index], zeros ? zero_point(format, zeros[index]) : 0,
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
  if (b.shape[1] == 0) return;
  const Update update = update_of(b, a, scale, transposed, weight.dtype);
  parallel_for(weight.shape[0], rows_per_task(update.columns), [&](int64_t begin, int64_t end) {
    if (weight.dtype == DType::f32) add_update(weight.as<float>(), update, begin, end);
    else add_update(weight.as<bf16>(), update, begin, end);
  });
}

void lora_merge_quantized(InOut codes, InOut scales, MaybeInOut zeros, Out error, In b, In a, double scale, int64_t format) {
  const QuantizedFormat kind = static_cast<QuantizedFormat>(format);
  const QuantizedShape shape = weight_shape(b.shape[0], a.shape[1], scales);
  const Update update = update_of(b, a, scale, false, DType::f32);
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
                           own_zeros ? zero_point(kind, own_zeros[i]) : 0, kind, own_zeros != nullptr);
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
