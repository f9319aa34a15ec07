import { Command } from 'commander'
import glob from 'fast-glob'
import { z } from 'zod'
import { ConfigError } from '../../errors.ts'
import { bertSpecialTokens, chatMLTemplate, chatMLTokens, trainTokenizer } from '../../tokenizers/index.ts'
import type { TrainTokenizerOptions } from '../../tokenizers/index.ts'
import { addFlags, readOptions } from '../flags.ts'
import { print } from '../terminal.ts'

const schema = z.strictObject({
  type: z.enum(['bpe', 'wordpiece', 'unigram']).default('bpe').describe('Byte-level BPE, WordPiece, or Unigram as in SentencePiece'),
  files: z.union([z.string(), z.array(z.string())]).describe('Text files, or globs'),
  vocabSize: z.int().min(1).default(30000).describe('Tokens of the vocabulary, special ones included'),
  minFrequency: z.int().min(0).optional().describe('Pairs or words seen less often are left out'),
  specialTokens: z.array(z.string()).optional().describe("Special tokens; ChatML's for bpe, BERT's for wordpiece"),
  outputDir: z.string().min(1).describe('Where tokenizer.json and tokenizer_config.json go'),
})

export function tokenizerCommand(): Command {
  const train = addFlags(new Command('train').description('train a tokenizer on text files'), schema)
    .action(async (config: string | undefined, flags: Record<string, unknown>) => {
      const { files, type, vocabSize, minFrequency, specialTokens, outputDir } = readOptions(schema, config, flags)
      const found = (await glob([files].flat(), { absolute: true })).sort()
      if (found.length === 0) throw new ConfigError(`files: no file matches ${[files].flat().join(', ')}`)
      const shared = { files: found, vocabSize, outputDir, ...(minFrequency === undefined ? {} : { minFrequency }) }
      const options: TrainTokenizerOptions = type === 'wordpiece'
        ? { type, ...shared, specialTokens: specialTokens ?? [...bertSpecialTokens] }
        : {
            type, ...shared, specialTokens: specialTokens ?? [...chatMLTokens],
            ...(specialTokens ? {} : { chatTemplate: chatMLTemplate, roles: { eosToken: '<|im_end|>', padToken: '<|endoftext|>' } }),
          }
      const begin = performance.now()
      const tokenizer = await trainTokenizer(options)
      print(`${tokenizer.vocabSize} tokens from ${found.length} files in ${((performance.now() - begin) / 1000).toFixed(1)} s: ${outputDir}`)
    })
  return new Command('tokenizer').description('tokenizers').addCommand(train)
}
