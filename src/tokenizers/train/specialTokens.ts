/** BERT's special tokens in BERT's order. */
export const bertSpecialTokens: readonly string[] = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']

/** SentencePiece's special tokens in its order. */
export const unigramSpecialTokens: readonly string[] = ['<unk>', '<s>', '</s>']
