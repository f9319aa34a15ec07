"""Records what transformers' Trainer logs while it trains the tiny models of ../models, for tests/train.

python record.py        (torch 2.13 CPU, transformers 5.18, accelerate; float32, eager attention, no dropout)

runs: { name: { model, options: TrainingArguments in camelCase, losses, gradNorms, learningRates, weights: parameter -> [sum, sum of squares] } }
Rows are trained in the given order; those of a micro-batch are padded on the right here and given unpadded in the test.
"""
import json
import re
import tempfile
from pathlib import Path

import torch
import transformers
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

here = Path(__file__).parent
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

ROWS = 16
BASE = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 3, "learning_rate": 2e-3, "weight_decay": 0.1,
        "adam_beta2": 0.95, "max_grad_norm": 1.0}
RUNS = {
    "llama2 cosine": ("llama2", {"lr_scheduler_type": "cosine", "warmup_steps": 3}),
    "gpt2 linear": ("gpt2", {"lr_scheduler_type": "linear"}),
    "qwen2 label smoothing": ("qwen2", {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2, "label_smoothing_factor": 0.1}),
    "qwen3 small clip": ("qwen3", {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 2, "max_grad_norm": 0.1, "adam_epsilon": 1e-6}),
}


def number(x):
    return float(f"{float(x):.8g}")


def rows(vocabulary, least_masked):
    generator = torch.Generator().manual_seed(7)
    result = []
    for _ in range(ROWS):
        length = int(torch.randint(4, 21, (1,), generator=generator))
        ids = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        masked = max(least_masked, int(torch.randint(0, length - 2, (1,), generator=generator)))
        result.append({"input_ids": ids, "labels": [-100] * masked + ids[masked:]})
    return result


def collate(batch):
    longest = max(len(row["input_ids"]) for row in batch)
    pad = lambda values, value: values + [value] * (longest - len(values))
    return {
        "input_ids": torch.tensor([pad(row["input_ids"], 0) for row in batch]),
        "attention_mask": torch.tensor([pad([1] * len(row["input_ids"]), 0) for row in batch]),
        "labels": torch.tensor([pad(row["labels"], -100) for row in batch]),
    }


class Ordered(Trainer):
    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


def camel(options):
    return {re.sub("_([a-z0-9])", lambda m: m[1].upper(), name): value for name, value in options.items()}


def record(folder, overrides):
    model = AutoModelForCausalLM.from_pretrained(here.parent / "models" / folder, dtype=torch.float32, attn_implementation="eager")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    options = {**BASE, **overrides}
    # transformers 5.18 counts the first token of a row, which nothing predicts, as a trained one for GPT-2 only.
    data = rows(model.config.vocab_size, 1 if folder == "gpt2" else 0)
    with tempfile.TemporaryDirectory() as output:
        args = TrainingArguments(output_dir=output, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, remove_unused_columns=False,
                                 logging_nan_inf_filter=False, disable_tqdm=True, **options)
        trainer = Ordered(model=model, args=args, train_dataset=data, data_collator=collate)
        trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "model": folder, "options": camel(options), "rows": camel_rows(data),
        "losses": [number(entry["loss"]) for entry in logs],
        "gradNorms": [number(entry["grad_norm"]) for entry in logs],
        "learningRates": [number(entry["learning_rate"]) for entry in logs],
        "weights": {name: [number(p.double().sum()), number(p.double().square().sum())] for name, p in model.named_parameters()},
    }


def camel_rows(data):
    return [{"inputIds": row["input_ids"], "labels": row["labels"]} for row in data]


result = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "runs": {name: record(*run) for name, run in RUNS.items()}}
(here / "recorded.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")
