"""What TRL 1.13's TPOTrainer makes of a batch: its loss, the norm of each gradient and its metrics (float64; torch 2.13, CPU, transformers 5.18).

    python record_tpo.py

The model is the recorded tests/recorded/models/llama2; prompts and completions are tokens.
"""
import collections
import json
import pathlib
import types

import torch
from transformers import AutoModelForCausalLM
from trl.experimental.tpo.tpo_trainer import TPOTrainer

here = pathlib.Path(__file__).parent
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(7)
draw = lambda n: torch.randint(3, 160, (n,), generator=generator).tolist()
rows = [dict(prompt=draw(p), chosen=draw(c), rejected=draw(r), reference=draw(g)) for p, c, r, g in [(4, 5, 3, 6), (7, 2, 6, 3), (1, 9, 8, 2)]]


def inputs(with_gold):
    names = ["chosen", "rejected", *["reference"] * with_gold]
    sequences = [row["prompt"] + row[name] for name in names for row in rows]
    masks = [[0] * len(row["prompt"]) + [1] * len(row[name]) for name in names for row in rows]
    pad = lambda lists: torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in lists], batch_first=True, padding_value=0)
    return dict(input_ids=pad(sequences), attention_mask=pad([[1] * len(s) for s in sequences]), completion_mask=pad(masks))


def measure(loss_type, beta, label_smoothing, tpo_alpha, tpo_l_gamma):
    model = AutoModelForCausalLM.from_pretrained(here.parent / "models/llama2", dtype=torch.float64, attn_implementation="eager").eval()
    metrics = {"eval": collections.defaultdict(list)}
    itself = lambda x: x
    trainer = types.SimpleNamespace(
        model=model, loss_type=loss_type, beta=beta, label_smoothing=label_smoothing, tpo_alpha=tpo_alpha, tpo_l_gamma=tpo_l_gamma,
        accelerator=types.SimpleNamespace(gather_for_metrics=itself, gather=itself), _metrics=metrics, _total_train_tokens=0, _tp_size=1)
    loss = TPOTrainer._compute_loss(trainer, model, inputs(tpo_alpha != 0), False)
    loss.backward()
    names = ["rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected"]
    return dict(
        options=dict(lossType=loss_type, beta=beta, labelSmoothing=label_smoothing, tpoAlpha=tpo_alpha, tpoLGamma=tpo_l_gamma), loss=loss.item(),
        metrics={name: metrics["eval"][name][0] for name in names}, gradientNorms={n: p.grad.norm().item() for n, p in model.named_parameters() if p.grad is not None})


cases = [measure(*case) for case in [
    ("sigmoid", 0.01, 0, 1, 0.5), ("sigmoid", 0.3, 0.1, 0.5, 0.5), ("hinge", 0.2, 0, 1, 0.5), ("ipo", 0.4, 0, 1, 0.5), ("tpo-l", 2, 0.05, 0.7, 0.8), ("sigmoid", 0.1, 0, 0, 0.5),
]]
(here / "tpo.json").write_text(json.dumps(dict(rows=rows, cases=cases)) + "\n")
