export { evaluateLoss } from './evaluateLoss.ts'
export { perplexity, perplexityOfFiles, type FilePerplexityOptions, type PerplexityOptions, type PerplexityResult } from './perplexity.ts'
export type { LossResult, ScoringOptions, ScoringProgress } from './scorer.ts'
