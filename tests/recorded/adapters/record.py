"""Records what PEFT computes with adapters of each kind over the tiny models of tests/recorded/models, for tests/adapters.

python record.py        (torch 2.13 CPU, transformers 5.18, peft 0.21; fixed seeds; float32, eager attention)

Each folder written, here and in ../adapters-partial (embedding rows and norms), is an adapter as PEFT saves it, with values that are not at their start, plus expected.json:
  { base, inputIds, labels, logits: [{ sequence, position, values }], merged (the same after merge_and_unload), loss, gradientNorms, losses }
`losses` are 20 steps of AdamW (lr 1e-2, no weight decay) on the one batch, from the saved values.
"""
import json
import shutil
from pathlib import Path

import peft
import torch
from transformers import AutoModelForCausalLM

here = Path(__file__).parent
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

LENGTHS = [9, 14, 5]
common = {"task_type": "CAUSAL_LM"}
CASES = {
    "lora": ("qwen2", peft.LoraConfig(r=4, lora_alpha=8, **common)),
    "rslora": ("qwen2", peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_rslora=True, **common)),
    "lora-patterns": ("llama2", peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "up_proj"], rank_pattern={"o_proj": 2, "layers.1.mlp.up_proj": 3}, alpha_pattern={"q_proj": 3}, layers_to_transform=[1], bias="lora_only", **common)),
    "lora-gpt2": ("gpt2", peft.LoraConfig(r=4, lora_alpha=8, bias="all", fan_in_fan_out=True, **common)),
    "lora-embedding": ("llama2", peft.LoraConfig(r=3, lora_alpha=6, target_modules=["embed_tokens", "q_proj"], modules_to_save=["lm_head"], **common)),
    "dora": ("qwen2", peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_dora=True, **common)),
    "dora-gpt2": ("gpt2", peft.LoraConfig(r=4, lora_alpha=8, use_dora=True, fan_in_fan_out=True, **common)),
    "pissa": ("llama2", peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights="pissa", **common)),
    "ia3": ("qwen2", peft.IA3Config(**common)),
    "ia3-gpt2": ("gpt2", peft.IA3Config(fan_in_fan_out=True, **common)),
    "lora-tokens": ("llama2", peft.LoraConfig(r=4, lora_alpha=8, trainable_token_indices=[9, 40, 85], **common)),
    "lora-tokens-tied": ("qwen2", peft.LoraConfig(r=4, lora_alpha=8, trainable_token_indices={"embed_tokens": [170, 63]}, **common)),
    "lora-tokens-head": ("llama2", peft.LoraConfig(r=4, lora_alpha=8, trainable_token_indices={"embed_tokens": [74], "lm_head": [11, 60]}, **common)),
    "lntuning": ("llama2", peft.LNTuningConfig(**common)),
    "lntuning-gpt2": ("gpt2", peft.LNTuningConfig(**common)),
}


def number(x):
    return float(f"{float(x):.8g}")


def numbers(tensor):
    return [number(v) for v in tensor.detach().double().flatten().tolist()]


def batch(vocabulary, seed):
    generator = torch.Generator().manual_seed(seed)
    sequences = [torch.randint(3, vocabulary, (n,), generator=generator) for n in LENGTHS]
    labels = [s.clone() for s in sequences]
    labels[0][:4] = -100
    return sequences, labels


def pad(sequences, value):
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)


def base_model(base):
    return AutoModelForCausalLM.from_pretrained(here.parent / "models" / base, dtype=torch.float32, attn_implementation="eager").eval()


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.05 if "magnitude" in name else 0.1))


def inputs_of(sequences, labels):
    return {"input_ids": pad(sequences, 0), "attention_mask": pad([torch.ones_like(s) for s in sequences], 0), "labels": pad(labels, -100)}


def picked(logits, sequences):
    places = [(0, len(sequences[0]) - 1), (1, 6), (2, 4)]
    return [{"sequence": s, "position": p, "values": numbers(logits[s, p])} for s, p in places]


for seed, (name, (base, config)) in enumerate(CASES.items()):
    folder = (here.parent / "adapters-partial" if "tokens" in name or name.startswith("lntuning") else here) / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    model = peft.get_peft_model(base_model(base), config)
    if name != "pissa":
        randomise(model, seed)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    # Where the base stood on the machine that recorded is nobody's business.
    written = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**written, "base_model_name_or_path": base}, indent=2, sort_keys=True))
    model = peft.PeftModel.from_pretrained(base_model(base), folder, is_trainable=True).eval()
    sequences, labels = batch(model.config.vocab_size, 50 + seed)
    inputs = inputs_of(sequences, labels)
    out = model(**inputs)
    out.loss.backward()
    gradients = {n.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", ""): number(p.grad.norm()) for n, p in model.named_parameters() if p.requires_grad}
    expected = {
        "base": base, "inputIds": [s.tolist() for s in sequences], "labels": [l.tolist() for l in labels], "logits": picked(out.logits, sequences),
        "loss": number(out.loss), "gradientNorms": gradients, "losses": [],
    }
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        expected["losses"].append(number(loss))
    merged = peft.PeftModel.from_pretrained(base_model(base), folder).merge_and_unload().eval()
    with torch.no_grad():
        expected["merged"] = picked(merged(**inputs).logits, sequences)
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    print(name, expected["loss"], expected["losses"][-1])
