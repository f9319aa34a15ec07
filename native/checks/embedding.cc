// What the rows of an embedding table and their gradient demand of their arguments.
#include "../checks.h"
#include "shape.h"

namespace anneal::checks {
namespace {

// `rows` holds one row of the table's width per id, in any shape.
void check_rows(const char* kernel, const char* name, const Tensor& rows, const char* table_name, const Tensor& table,
                const Tensor& id) {
  ANNEAL_CHECK(table.rank == 2, "%s: %s must have shape [vocabulary, width], but has %s", kernel, table_name,
               ShapeText(table).text);
  ANNEAL_CHECK(rows.rank >= 1 && rows.columns() == table.columns() && rows.size == id.size * table.columns(),
               "%s: %s must have %lld rows of %lld, but has %s", kernel, name, static_cast<long long>(id.size),
               static_cast<long long>(table.columns()), ShapeText(rows).text);
  check_dtype(kernel, "id", id, DType::i32);
}

}  // namespace

void embedding(Out y, In weight, In id) {
  check_rows("embedding", "y", y, "weight", weight, id);
  check_dtype("embedding", "y", y, weight.dtype);
}

void embedding_backward(InOut dweight, In dy, In id, bool) {
  check_rows("embedding_backward", "dy", dy, "dweight", dweight, id);
  check_dtype("embedding_backward", "dweight", dweight, DType::f32);
  ANNEAL_CHECK(is_float(dy.dtype), "embedding_backward: dy must be f32 or bf16, but is %s", name_of(dy.dtype));
  ANNEAL_CHECK(dweight.dim(0) > 0 || id.size == 0, "embedding_backward: dweight has no rows, but there are %lld ids",
               static_cast<long long>(id.size));
}

}  // namespace anneal::checks
