"""Records what PEFT computes with LoRA on BERT's classifier of tests/recorded/models, for tests/adapters/encoders.test.ts.

python record.py        (torch 2.13 CPU, transformers 5.18, peft 0.21; fixed seeds; float32, eager attention)

The folder written is an adapter as PEFT saves it, with its head, plus expected.json: { inputIds, labels, logits, merged, loss, gradientNorms, losses }.
"""
import json
import shutil
from pathlib import Path

import peft
import torch
from transformers import AutoModelForSequenceClassification

here = Path(__file__).parent
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

LENGTHS = [9, 14, 5]
FAMILY = "bert-classifier"
folder = here / "lora-bert"


def number(x):
    return float(f"{float(x.detach()):.8g}")


def numbers(tensor):
    return [number(v) for v in tensor.double().flatten()]


def pad(sequences, value):
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)


def base():
    return AutoModelForSequenceClassification.from_pretrained(here.parent / "models" / FAMILY, attn_implementation="eager").eval()


generator = torch.Generator().manual_seed(160)
sequences = [torch.randint(5, 96, (n,), generator=generator) for n in LENGTHS]
labels = torch.tensor([1, 2, 0])
inputs = {"input_ids": pad(sequences, 0), "attention_mask": pad([torch.ones_like(s) for s in sequences], 0), "labels": labels}

shutil.rmtree(folder, ignore_errors=True)
model = peft.get_peft_model(base(), peft.LoraConfig(r=4, lora_alpha=8, task_type="SEQ_CLS"))
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
model.save_pretrained(folder)
(folder / "README.md").unlink(missing_ok=True)
config = json.loads((folder / "adapter_config.json").read_text())
(folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": FAMILY}, indent=2) + "\n")
for file in folder.glob("*.safetensors"):
    file.chmod(0o644)


def load():
    return peft.PeftModel.from_pretrained(base(), folder, is_trainable=True).eval()


model = load()
out = model(**inputs)
out.loss.backward()
norms = {n: number(p.grad.double().norm()) for n, p in model.named_parameters() if p.grad is not None}
trained = load()
optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
losses = []
for _ in range(20):
    optimizer.zero_grad()
    loss = trained(**inputs).loss
    losses.append(number(loss))
    loss.backward()
    optimizer.step()
merged = load().merge_and_unload()(**inputs).logits
(folder / "expected.json").write_text(json.dumps({
    "inputIds": [s.tolist() for s in sequences], "labels": labels.tolist(), "logits": [numbers(row) for row in out.logits], "merged": [numbers(row) for row in merged],
    "loss": number(out.loss), "gradientNorms": norms, "losses": losses,
}, separators=(",", ":")) + "\n")
