// The numbers that name an elementwise operation in a kernel call; src/ops/operations.ts holds the same lists and a test compares them.
#pragma once

namespace anneal {

enum class BinaryOperation { add, subtract, multiply, divide, maximum, minimum, power, greater, equal };
enum class UnaryOperation { negate, exp, log, sqrt, rsqrt, tanh, erf, sin, cos, abs, sigmoid, reciprocal, square };
enum class ReduceOperation { sum, max };
enum class Activation { none, gelu, gelu_tanh, silu, relu, tanh, quick_gelu };
enum class QuantizedFormat { nf4, fp4, int8, int4, dynamic, dynamic_unsigned };
enum class AdvantageScaling { none, group, batch, normalize_then_sum, leave_one_out };
enum class PolicyObjective { clip, cispo, sapo, vespo };
enum class RatioLevel { token, sequence_mean, sequence_sum };

}  // namespace anneal
