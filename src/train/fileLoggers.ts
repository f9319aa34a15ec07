import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { combineLoggers, JsonlLogger, readEvents, ReportLogger, TensorBoardLogger } from './loggers/index.ts'
import type { TrainerLogger } from './loggers/index.ts'
import type { TrainingArguments } from './options.ts'

/** The loggers that reportTo names, in outputDir: metrics.jsonl, TensorBoard files under runs/ and report.html. */
export function fileLoggers({ outputDir, reportTo }: TrainingArguments, resumeStep: number, onFailure: (message: string) => void): TrainerLogger {
  const metrics = join(outputDir, 'metrics.jsonl')
  const loggers: TrainerLogger[] = []
  if (reportTo.includes('jsonl')) loggers.push(new JsonlLogger(metrics, { resumeStep }))
  if (reportTo.includes('tensorboard')) loggers.push(new TensorBoardLogger(join(outputDir, 'runs')))
  if (reportTo.includes('html')) {
    const earlier = resumeStep > 0 && existsSync(metrics) ? readEvents(metrics) : []
    loggers.push(new ReportLogger(join(outputDir, 'report.html'), { earlier }))
  }
  return combineLoggers(loggers, onFailure)
}
