/** The numbers that name an elementwise operation in a kernel call: the lists of native/operations.h, which a test compares with these. */
const numbered = <const T extends readonly string[]>(names: T): Record<T[number], number> =>
  Object.fromEntries(names.map((name, number) => [name, number])) as Record<T[number], number>

export const binaryOperations = numbered(['add', 'subtract', 'multiply', 'divide', 'maximum', 'minimum', 'power', 'greater', 'equal'])
export const unaryOperations = numbered(['negate', 'exp', 'log', 'sqrt', 'rsqrt', 'tanh', 'erf', 'sin', 'cos', 'abs', 'sigmoid', 'reciprocal', 'square'])
export const reduceOperations = numbered(['sum', 'max'])
export const activations = numbered(['none', 'gelu', 'gelu_tanh', 'silu', 'relu', 'tanh', 'quick_gelu'])

export type BinaryOperation = keyof typeof binaryOperations
export type UnaryOperation = keyof typeof unaryOperations
export type Activation = keyof typeof activations
