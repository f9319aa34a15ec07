/** The signals that ask a command to end, and the exit code after each, as a shell has it. */
export const exitCodes = { SIGINT: 130, SIGTERM: 143 } as const
export type StopSignal = keyof typeof exitCodes
export const signalNames = ['SIGINT', 'SIGTERM'] as const satisfies readonly StopSignal[]

/** What each did to the command. */
export const verbs = { SIGINT: 'Interrupted', SIGTERM: 'Terminated' } as const satisfies Record<StopSignal, string>
