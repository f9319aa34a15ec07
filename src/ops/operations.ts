/** The numbers that name an elementwise operation in a kernel call: the lists of native/operations.h, which a test compares with these. */
const numbered = <const T extends readonly string[]>(names: T): Record<T[number], number> =>
  Object.fromEntries(names.map((name, number) => [name, number])) as Record<T[number], number>

export const binaryOperations = numbered(['add', 'subtract', 'multiply', 'divide', 'maximum', 'minimum', 'power', 'greater', 'equal'])
export const unaryOperations = numbered(['negate', 'exp', 'log', 'sqrt', 'rsqrt', 'tanh', 'erf', 'sin', 'cos', 'abs', 'sigmoid', 'reciprocal', 'square'])
export const reduceOperations = numbered(['sum', 'max'])
export const activations = numbered(['none', 'gelu', 'gelu_tanh', 'silu', 'relu', 'tanh', 'quick_gelu'])

/** The formats of quantised numbers; the first four are for weights. */
export const quantizedFormats = numbered(['nf4', 'fp4', 'int8', 'int4', 'dynamic', 'dynamic_unsigned'])
/**
 * What divides a reward's distance from its group's mean: nothing, its group's deviation, the batch's; GDPO's order of normalising and summing; or
 * RLOO's mean of the others. */
export const advantageScalings = numbered(['none', 'group', 'batch', 'normalize_then_sum', 'leave_one_out'])
export const policyObjectives = numbered(['clip', 'cispo', 'sapo', 'vespo'])
/** What the ratio of new to old probability is taken over: a token, or a sequence's mean or sum of log-ratios. */
export const ratioLevels = numbered(['token', 'sequence_mean', 'sequence_sum'])

export type BinaryOperation = keyof typeof binaryOperations
export type UnaryOperation = keyof typeof unaryOperations
/** The name of an activation that `activation` and `linear` know. */
export type Activation = keyof typeof activations
/** The name of a format of quantised weights. */
export type QuantizedFormat = keyof typeof quantizedFormats
/** What a reward's distance from its group's mean may be divided by. */
export type AdvantageScaling = keyof typeof advantageScalings
/** The name of a policy objective of `policyLoss`. */
export type PolicyObjective = keyof typeof policyObjectives
/** What an importance ratio is taken over: each token, or the whole answer. */
export type RatioLevel = keyof typeof ratioLevels
