"""What TRL 1.13 computes for distillation, in float64: GKD's generalised JSD with its gradient, MiniLLM's advantage.

Needs torch 2.13, transformers, trl 1.13. Writes golden.json beside this file: python record.py
"""
import json
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl.experimental.gkd import GKDTrainer
from trl.experimental.minillm import MiniLLMTrainer

# Powers of gamma have the default dtype.
torch.set_default_dtype(torch.float64)
torch.manual_seed(7)
rows, length, vocabulary = 2, 6, 11


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64)


student, teacher = numbers(rows, length, vocabulary) * 2, numbers(rows, length, vocabulary) * 2
labels = torch.tensor([[-100, 1, 2, 3, 4, 10], [-100, -100, 4, 5, 0, -100]])
jsd = []
for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
    for temperature in (1.0, 2.0):
        logits = student.clone().requires_grad_()
        loss = GKDTrainer.generalized_jsd_loss(logits, teacher, labels=labels, beta=beta, temperature=temperature)
        loss.backward()
        jsd.append({"beta": beta, "temperature": temperature, "loss": loss.item(), "gradient": logits.grad.flatten().tolist()})

lengths = [6, 3, 5, 2]
own, taught = -numbers(4, 6).abs(), -numbers(4, 6).abs()
minillm = []
for gamma, normalise in ((0.0, True), (1.0, True), (0.9, True), (0.9, False)):
    trainer = SimpleNamespace(gamma=gamma, length_normalization=normalise)
    # Row by row: padding would enter the normalisation, with a weight of 1e-4.
    values = [MiniLLMTrainer._compute_advantage(trainer, s[None, :n], t[None, :n])[0].tolist() for s, t, n in zip(own, taught, lengths)]
    minillm.append({"gamma": gamma, "lengthNormalization": normalise, "advantage": values})

golden = {
    "trl": trl.__version__,
    "jsd": {"student": student.flatten().tolist(), "teacher": teacher.flatten().tolist(), "labels": labels.flatten().tolist(),
            "shape": [rows * length, vocabulary], "cases": jsd},
    "minillm": {"student": [r[:n].tolist() for r, n in zip(own, lengths)], "teacher": [r[:n].tolist() for r, n in zip(taught, lengths)], "cases": minillm},
}
Path(__file__).with_name("golden.json").write_text(json.dumps(golden) + "\n")
