export { AdamW } from './adamw.ts'
export type { AdamWOptions } from './adamw.ts'
export { createSchedule, lrSchedulerTypes } from './schedules.ts'
export type { LrSchedulerOptions, LrSchedulerType, Schedule } from './schedules.ts'
