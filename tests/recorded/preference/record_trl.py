"""What TRL 1.13's own functions make of prompts, steps and BCO's running mean (float64; torch 2.13, CPU).

    python record_trl.py
"""
import json
import pathlib
import types

import torch
from trl import extract_prompt
from trl.experimental.bco.bco_trainer import BCOTrainer
import trl.experimental.bco.bco_trainer as bco

user = lambda text: {"role": "user", "content": text}
assistant = lambda text: {"role": "assistant", "content": text}
pairs = [
    ("What color is the sky? It is blue.", "What color is the sky? It is green."),
    ("the cat sees", "the cat likes"),
    ("a  b", "a  c"),
    ("no blank:yes", "no blank:no"),
    ("the whole", "the whole thing"),
    ([user("hi"), assistant("yes")], [user("hi"), assistant("no")]),
    ([user("a"), assistant("b"), user("c"), assistant("d")], [user("a"), assistant("b"), user("c"), assistant("e"), user("f")]),
]
prompts = [{"chosen": c, "rejected": r, "expected": extract_prompt({"chosen": c, "rejected": r})} for c, r in pairs]

Running = getattr(bco, "RunningMoments")
running = Running(types.SimpleNamespace(use_distributed=False))
self = types.SimpleNamespace(beta=0.1, running=running, match_underlying_distribution=False)
t = lambda values: torch.tensor(values, dtype=torch.float64)
batches = []
for chosen, rejected, ref_chosen, ref_rejected in [([-4.0, -7.5], [-3.0, -9.0], [-5.0, -7.0], [-2.0, -9.5]), ([-1.0], [-6.0, -2.0, -8.0], [-2.5], [-5.0, -2.5, -9.0])]:
    losses, chosen_rewards, rejected_rewards, delta = BCOTrainer.bco_loss(self, t(chosen), t(rejected), t(ref_chosen), t(ref_rejected), None, None)
    batches.append(dict(chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected, losses=losses.tolist(), delta=delta.item()))
(pathlib.Path(__file__).parent / "trl.json").write_text(json.dumps({"prompts": prompts, "beta": 0.1, "bco": batches}))
