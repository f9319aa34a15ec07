"""Records what TRL 1.13 and datasets do with small inputs. Run as: python record.py
Writes packing.json (pack_dataset), sft.json (SFTTrainer._prepare_dataset and its padding-free collator), interleave.json, and
messages-<compression>.parquet (conversations as list<struct>, three row groups)."""
import json
import logging
import random
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
from datasets import Dataset, disable_progress_bars, interleave_datasets
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, decoders
from transformers import PreTrainedTokenizerFast
from trl import pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

disable_progress_bars()
logging.disable(logging.WARNING)


def packing():
    cases = []
    rng = random.Random(0)
    shapes = [
        (8, [5, 2, 3, 1], 1000), (4, [5, 2, 3, 1], 1000), (16, [0, 3, 16, 17, 0, 40, 1, 16], 1000), (1, [1, 3, 0, 2], 1000),
        (7, [3] * 20, 1000), (32, [rng.randint(0, 40) for _ in range(200)], 64), (100, [rng.randint(1, 100) for _ in range(300)], 1000),
        (64, [int(2 ** rng.uniform(0, 8)) for _ in range(250)], 100), (33, [rng.choice([11, 22, 33, 5, 6]) for _ in range(120)], 1000),
    ]
    for length, lengths, group in shapes:
        at, rows = 0, []
        for n in lengths:
            rows.append(list(range(at, at + n)))
            at += n
        for strategy in ["bfd", "bfd_split", "wrapped"]:
            # TRL 1.13's wrapped repeats the first batch's tokens when a later batch is a slice of the same chunk, so it gets one batch.
            group_size = len(lengths) if strategy == "wrapped" else group
            dataset = Dataset.from_dict({"input_ids": rows, "labels": rows})
            packed = pack_dataset(dataset, length, strategy, {"batch_size": group_size})
            # Token i of the corpus is the number i, so a row is told by its runs [first, count].
            runs = []
            for row in packed["input_ids"]:
                out = []
                for token in row:
                    if out and out[-1][0] + out[-1][1] == token:
                        out[-1][1] += 1
                    else:
                        out.append([token, 1])
                runs.append(out)
            cases.append({
                "maxLength": length, "lengths": lengths, "groupSize": group_size, "strategy": strategy, "rows": runs,
                "sequenceLengths": packed["seq_lengths"][:] if "seq_lengths" in packed.column_names else None,
            })
    return cases


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ["<|eos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def tokenizer():
    """One token a character: ids 0..4 are special, a printable ASCII character c is ord(c)."""
    vocab = {**{name: i for i, name in enumerate(SPECIALS)}, **{chr(c): c for c in range(10, 127)}}
    core = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|eos|>", pad_token="<|eos|>", additional_special_tokens=SPECIALS[1:])
    fast.chat_template = TEMPLATE
    return fast


def sft():
    user = lambda text: {"role": "user", "content": text}
    bot = lambda text: {"role": "assistant", "content": text}
    system = {"role": "system", "content": "Be brief."}
    datasets = {
        "text": [{"text": "The sky is blue."}, {"text": "a"}, {"text": "Done<|eos|>"}, {"text": "x" * 50}],
        "promptCompletion": [{"prompt": "The sky is", "completion": " blue."}, {"prompt": "p" * 30, "completion": "c" * 30}, {"prompt": "q", "completion": ""}],
        "messages": [
            {"messages": [user("Hi"), bot("Hello")]}, {"messages": [system, user("1+1?"), bot("2"), user("2+2?"), bot("4")]},
            {"messages": [user("z" * 40), bot("too far")]},
        ],
        "conversationalPromptCompletion": [
            {"prompt": [user("Hi")], "completion": [bot("Hello")]}, {"prompt": [system, user("1+1?"), bot("2"), user("2+2?")], "completion": [bot("4")]},
            {"prompt": [user("w" * 40)], "completion": [bot("gone")]},
        ],
        "sharegpt": [{"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello"}]}],
    }
    options = [
        {}, {"completion_only_loss": False}, {"assistant_only_loss": True}, {"assistant_only_loss": True, "completion_only_loss": False},
        {"max_length": 24}, {"max_length": 24, "truncation_mode": "keep_end"}, {"max_length": None}, {"max_length": 24, "assistant_only_loss": True},
    ]
    fast, cases = tokenizer(), []
    for name, rows in datasets.items():
        for option in options:
            settings = {"max_length": 1024, "truncation_mode": "keep_start", "completion_only_loss": None, "assistant_only_loss": False, **option}
            conversational = name not in ("text", "promptCompletion")
            if settings["assistant_only_loss"] and not conversational:
                continue
            if settings["completion_only_loss"] is not None and "ompletion" not in name:
                continue
            completion_only = settings["completion_only_loss"]
            if completion_only is None:
                completion_only = "ompletion" in name
            args = SimpleNamespace(
                dataset_num_proc=None, dataset_text_field="text", assistant_only_loss=settings["assistant_only_loss"], max_length=settings["max_length"],
                truncation_mode=settings["truncation_mode"], shuffle_dataset=False, packing_strategy="bfd", use_liger_kernel=False, seed=0,
            )
            trainer = SimpleNamespace(_tokenizer=fast, chat_template=TEMPLATE, completion_only_loss=completion_only)
            data = SFTTrainer._prepare_dataset(trainer, Dataset.from_list(rows), fast, args, False, None, "train")
            cases.append({"rows": rows, "name": name, "options": settings, "inputIds": data["input_ids"][:], "labels": data["labels"][:]})
    examples = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 6, 7, 8, 9], "seq_lengths": [3, 2]}, {"input_ids": [1, 2], "labels": [1, 2], "seq_lengths": [2]},
    ]
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    flat = {key: value.tolist() for key, value in collator([dict(e) for e in examples]).items()}
    padded = DataCollatorForLanguageModeling(pad_token_id=0, pad_to_multiple_of=4)([{k: e[k] for k in ("input_ids", "labels")} for e in examples])
    return {"cases": cases, "collate": {"examples": examples, "flat": flat, "padded": {key: value.tolist() for key, value in padded.items()}}}


def interleave():
    cases = []
    for lengths in [[3, 2], [2, 3], [4, 1, 2], [5, 5]]:
        parts = [Dataset.from_dict({"part": [p] * n, "index": list(range(n))}) for p, n in enumerate(lengths)]
        for strategy, name in [("first_exhausted", "interleave_under"), ("all_exhausted", "interleave_over")]:
            mixed = interleave_datasets(parts, stopping_strategy=strategy)
            cases.append({"lengths": lengths, "strategy": name, "drawn": [[row["part"], row["index"]] for row in mixed]})
    return cases


def conversations():
    rows = []
    for i in range(25):
        messages = [{"role": "user", "content": f"Frage {i} ü", "tool_calls": None}, {"role": "assistant", "content": f"Antwort {i}", "tool_calls": None}]
        if i % 5 == 0:
            call = [{"type": "function", "function": {"name": "f", "arguments": f"{i}"}}]
            messages = [{"role": "system", "content": "kurz", "tool_calls": None}, messages[0], {"role": "assistant", "content": None, "tool_calls": call}]
        rows.append({"id": i, "score": i / 2, "messages": messages, "missing": None if i % 2 else "here"})
    return rows


for compression in ["snappy", "zstd", "gzip", "none"]:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(conversations()), f"messages-{compression}.parquet", compression=compression, row_group_size=10)

for name, value in [("packing", packing()), ("sft", sft()), ("interleave", interleave())]:
    with open(f"{name}.json", "w") as file:
        json.dump(value, file, separators=(",", ":"))
        file.write("\n")
