"""Records what PEFT computes with virtual tokens on the tiny models of ../models, for tests/adapters/virtualTokens.test.ts.

python record.py        (torch 2.13 CPU, transformers 5.18, peft 0.21; fixed seeds; float32, eager attention)

Writes expected.json: case -> { family, options, state, inputIds, labels, logits, loss, gradients, adamwLosses, saved, loadedLogits, prompt, greedy }.
`state` holds the trained parameters; `saved` is prompt_embeddings as PEFT writes it after 20 steps of AdamW, and what follows is of the adapter so saved.
The first label of a sequence is -100: PEFT would have an embedding prompt predict the first token, which no model without one does.
Folders <case>/ hold the adapters PEFT saved.
"""
import json
import math
import shutil
from pathlib import Path

import torch
from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

here = Path(__file__).parent
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

LENGTHS = [13, 1, 20, 7]
GREEDY = 12

CASES = {
    "prefix-llama3": ("llama3", PrefixTuningConfig, dict(num_virtual_tokens=5)),
    "prefix-gpt2": ("gpt2", PrefixTuningConfig, dict(num_virtual_tokens=3)),
    "prefix-mistral": ("mistral", PrefixTuningConfig, dict(num_virtual_tokens=4)),
    "projection-llama3": ("llama3", PrefixTuningConfig, dict(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=12)),
    "projection-gpt2": ("gpt2", PrefixTuningConfig, dict(num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=6)),
    "prompt-llama3": ("llama3", PromptTuningConfig, dict(num_virtual_tokens=5)),
    "prompt-gpt2": ("gpt2", PromptTuningConfig, dict(num_virtual_tokens=3)),
    "ptuning-llama3": ("llama3", PromptEncoderConfig, dict(num_virtual_tokens=5, encoder_hidden_size=12)),
    "ptuning-gpt2": ("gpt2", PromptEncoderConfig, dict(num_virtual_tokens=3, encoder_hidden_size=10)),
}


def number(x, digits=7):
    x = float(x)
    return x if x == 0 or not math.isfinite(x) else float(f"{x:.{digits}g}")


def numbers(tensor):
    return [number(v, 6) for v in tensor.detach().double().flatten().tolist()]


def base(family):
    return AutoModelForCausalLM.from_pretrained(here.parent / "models" / family, dtype=torch.float32, attn_implementation="eager").eval()


def pad(sequences, value):
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)


def encoder(model):
    return model.prompt_encoder["default"]


def state(model):
    return {n: {"shape": list(p.shape), "values": numbers(p)} for n, p in encoder(model).named_parameters()}


def greedy(model, seed):
    for start in range(100):
        prompt = torch.randint(3, model.config.vocab_size, (5,), generator=torch.Generator().manual_seed(seed + start))
        steps = model.generate(
            input_ids=prompt[None], attention_mask=torch.ones(1, 5, dtype=torch.long), do_sample=False, max_new_tokens=GREEDY,
            eos_token_id=None, pad_token_id=0, use_cache=True, return_dict_in_generate=True, output_logits=True,
        )
        top = torch.stack([l[0].topk(2).values for l in steps.logits])
        tokens = steps.sequences[0, -GREEDY:].tolist()
        if (top[:, 0] - top[:, 1]).min().item() > 2e-3:
            return prompt.tolist(), tokens
    raise SystemExit("no prompt whose greedy tokens are clear of ties")


def record(name, family, kind, options, seed):
    torch.manual_seed(seed)
    config = kind(task_type="CAUSAL_LM", **options)
    model = get_peft_model(base(family), config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Rounded as they are recorded, so that both start from the same numbers.
        for parameter in encoder(model).parameters():
            values = torch.tensor([float(f"{v:.4g}") for v in parameter.flatten().tolist()])
            parameter.copy_(values.view_as(parameter))
    sequences = [torch.randint(3, model.config.vocab_size, (n,), generator=generator) for n in LENGTHS]
    labels = [s.clone() for s in sequences]
    for one in labels:
        one[0] = -100
    labels[0][:4] = -100
    labels[2][9] = -100
    inputs = {
        "input_ids": pad(sequences, 0), "attention_mask": pad([torch.ones_like(s) for s in sequences], 0), "labels": pad(labels, -100),
    }
    result = {
        "family": family, "options": options, "state": state(model),
        "inputIds": [s.tolist() for s in sequences], "labels": [s.tolist() for s in labels],
    }
    out = model(**inputs)
    # Rows of the virtual tokens come first where they are inputs.
    added = out.logits.shape[1] - inputs["input_ids"].shape[1]
    result["logits"] = [
        {"sequence": s, "position": p, "values": numbers(out.logits[s, added + p])} for s, p in [[0, 0], [1, 0], [2, 19]]
    ]
    result["loss"] = number(out.loss)
    out.loss.backward()
    result["gradients"] = {n: numbers(p.grad) for n, p in encoder(model).named_parameters()}

    optimizer = torch.optim.AdamW(encoder(model).parameters(), lr=1e-2, weight_decay=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        losses.append(number(loss))
        loss.backward()
        optimizer.step()
    result["adamwLosses"] = losses
    folder = here / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    # Not where it lay on this machine.
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": family}, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    result["saved"] = numbers(load_file(folder / "adapter_model.safetensors")["prompt_embeddings"])

    loaded = PeftModel.from_pretrained(base(family), folder).eval()
    with torch.no_grad():
        result["loadedLogits"] = numbers(loaded(input_ids=sequences[0][None], attention_mask=torch.ones(1, LENGTHS[0])).logits[0, -1])
    result["prompt"], result["greedy"] = greedy(loaded, seed)
    return result


if __name__ == "__main__":
    cases = {name: record(name, *case, seed) for seed, (name, case) in enumerate(CASES.items(), 100)}
    (here / "expected.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
