import { z } from 'zod'
import { quantizeSchema } from '../models/index.ts'

/** How the layers of a loaded model are quantised: those of fromPretrained({ quantize }), and methods that need text to calibrate with. */
export const quantizeModelSchema = quantizeSchema.extend({
  method: z.enum(['rtn', 'gptq', 'awq']).default('rtn').describe('rtn rounds to nearest; gptq passes errors on to later weights; awq scales inputs first. The last two need calibration text'),
  dampPercent: z.number().positive().max(1).default(0.01).describe("gptq: what is added to the diagonal of the inputs' Gram matrix, as a share of its mean"),
})
