"""Losses, gradients and logged numbers of TRL 1.13's OnlineDPOTrainer.training_step on given answers, in float64. Needs torch, transformers and trl.

    python record.py
"""
import json
import pathlib
from collections import defaultdict
from types import SimpleNamespace

import torch
import trl
from transformers import AutoModelForCausalLM
from trl.experimental.online_dpo import OnlineDPOTrainer

here = pathlib.Path(__file__).parent
folder = here.parent / "models" / "llama3"
EOS, PAD = 3, 0
PROMPTS = [[5, 9, 12, 7], [8, 4, 6, 30]]
# The first answers to all prompts, then the second ones.
ANSWERS = [[10, 11, 12, EOS], [14, 15, 16, 17, 18], [20, 21], [22, EOS]]
REWARDS = [0.25, 1.0, 0.5, 0.5]
CASES = [
    {"loss_type": "sigmoid", "beta": 0.1, "missing_eos_penalty": None, "max_length": 512},
    {"loss_type": "sigmoid", "beta": 0.7, "missing_eos_penalty": 0.75, "max_length": 512},
    {"loss_type": "ipo", "beta": 0.3, "missing_eos_penalty": 0.75, "max_length": 512},
]


def load():
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()


def padded(rows, left):
    width = max(map(len, rows))
    pads = [[PAD] * (width - len(row)) for row in rows]
    ids = [pad + row if left else row + pad for row, pad in zip(rows, pads)]
    mask = [[0] * len(pad) + [1] * len(row) if left else [1] * len(row) + [0] * len(pad) for row, pad in zip(rows, pads)]
    return torch.tensor(ids), torch.tensor(mask)


def run(case):
    policy, reference = load(), load()
    with torch.no_grad():
        # A policy that has moved away from its reference, by a rule that is easy to repeat.
        for parameter in policy.parameters():
            parameter.mul_(1.05)
    stats = defaultdict(list)
    trainer = OnlineDPOTrainer.__new__(OnlineDPOTrainer)
    trainer.__dict__.update(
        model=policy, ref_model=reference, max_length=case["max_length"], _beta=case["beta"], stats=stats, reward_funcs=[None], is_vision_model=False, state=SimpleNamespace(global_step=0, epoch=0.0),
        args=SimpleNamespace(use_vllm=False, missing_eos_penalty=case["missing_eos_penalty"], loss_type=case["loss_type"], torch_empty_cache_steps=None, optim="adamw_torch", n_gpu=1, gradient_accumulation_steps=1),
        _tokenizer=SimpleNamespace(eos_token_id=EOS),
        processing_class=SimpleNamespace(batch_decode=lambda ids, **_: ["" for _ in ids]),
        accelerator=SimpleNamespace(gather_for_metrics=lambda x: x, backward=lambda loss: loss.backward(), device="cpu"),
    )
    trainer._generate = lambda model, prompts, images: (*padded(PROMPTS * 2, True), *padded(ANSWERS, False))
    trainer._calculate_rewards_from_functions = lambda **_: torch.tensor(REWARDS, dtype=torch.float64)
    loss = trainer.training_step(policy.eval(), {"prompt": ["a", "b"]})
    name, weight = next((n, p) for n, p in policy.named_parameters() if "q_proj" in n)
    kept = ["objective/scores", "objective/scores_margin", "val/contain_eos_token", "logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"]
    return {**case, "loss": loss.item(), "stats": {key: stats[key][0] for key in kept}, "gradient": {"name": name, "values": weight.grad.flatten()[:64].tolist()}}


result = {"trl": trl.__version__, "torch": torch.__version__, "model": "llama3", "scale": 1.05, "eos": EOS, "prompts": PROMPTS, "answers": ANSWERS, "rewards": REWARDS, "cases": [run(case) for case in CASES]}
(here / "trl.json").write_text(json.dumps(result))
