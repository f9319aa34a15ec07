"""Trains small tokenizers with Hugging Face tokenizers 0.23 on corpus.txt and records what they make of texts.json.

Run in this folder: python record.py (needs the package tokenizers).
"""
import json
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")

corpus = open("corpus.txt", encoding="utf-8").read().split("\n\n")
texts = json.load(open("texts.json", encoding="utf-8"))
alphabet = pre_tokenizers.ByteLevel.alphabet()


def split(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])


def byte_level(name, pre, vocab_size, normalizer=None, specials=(), added=(), ignore_merges=False, post=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(list(specials))
    tokenizer.add_tokens(list(added))
    if post:
        tokenizer.post_processor = post(tokenizer)
    finish(name, tokenizer)


def finish(name, tokenizer):
    tokenizer.save(f"{name}.tokenizer.json")
    encodings = [tokenizer.encode(text) for text in texts]
    recorded[name] = {
        "ids": [encoding.ids for encoding in encodings],
        "plain": [tokenizer.encode(text, add_special_tokens=False).ids for text in texts],
        "decoded": [tokenizer.decode(encoding.ids, skip_special_tokens=True) for encoding in encodings],
        "pair": tokenizer.encode("first text", "second").ids,
        "pairTypes": tokenizer.encode("first text", "second").type_ids,
    }


recorded = {}
byte_level("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False), 700, specials=["<|endoftext|>"],
           post=lambda t: processors.ByteLevel(trim_offsets=False))
byte_level("qwen2", split(QWEN), 600, normalizers.NFC(), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [
    AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False),
    AddedToken("w\u00f6rd", single_word=True), AddedToken("[MASK]", lstrip=True, rstrip=True)])
byte_level("llama3", split(LLAMA), 600, None, ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
           ignore_merges=True, post=lambda t: processors.Sequence([
               processors.ByteLevel(trim_offsets=True),
               processors.TemplateProcessing(
                   single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                   special_tokens=[("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))])]))

bert = Tokenizer(models.WordPiece(unk_token="[UNK]"))
bert.normalizer = normalizers.BertNormalizer()
bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
bert.decoder = decoders.WordPiece()
bert.train_from_iterator(corpus, trainers.WordPieceTrainer(
    vocab_size=500, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
bert.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
finish("bert", bert)

unigram = Tokenizer(models.Unigram())
unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
unigram.pre_tokenizer = pre_tokenizers.Metaspace()
unigram.decoder = decoders.Metaspace()
unigram.train_from_iterator(corpus, trainers.UnigramTrainer(
    vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False))
finish("unigram", unigram)

llama2 = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
llama2.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
llama2.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
llama2.pre_tokenizer = pre_tokenizers.Metaspace()
llama2.train_from_iterator(corpus, trainers.BpeTrainer(
    vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)], show_progress=False))
state = json.loads(llama2.to_str())
state["pre_tokenizer"] = None
state["added_tokens"] = state["added_tokens"][:3]
finish("llama2", Tokenizer.from_str(json.dumps(state)))

# Trainers: what HF learns with other options.
limited = Tokenizer(models.BPE())
limited.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
limited.train_from_iterator(corpus, trainers.BpeTrainer(
    vocab_size=2000, min_frequency=4, max_token_length=5, special_tokens=["<a>", "<b>"], initial_alphabet=alphabet, show_progress=False))
recorded["limitedMerges"] = json.loads(limited.to_str())["model"]["merges"]
json.dump(recorded, open("recorded.json", "w", encoding="utf-8"), ensure_ascii=False)
