"""What TRL 1.13 computes for universal logit distillation, in float64: GOLD's ULDLoss with its gradient, and its alignment by bytes.

Needs torch 2.13, transformers, trl 1.13. Writes uld.json beside this file: python record_uld.py
"""
import json
import random
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl.experimental.gold.gold_trainer import ULDLoss

torch.set_default_dtype(torch.float64)
torch.manual_seed(11)
random.seed(11)
student_vocabulary, teacher_vocabulary = 13, 11
# Tokens that both write alike; the others are of one alone.
shared = {3: 0, 7: 2, 1: 5, 12: 9, 0: 10}
student_names = {f"t{i}" if i not in shared else f"both{i}": i for i in range(student_vocabulary)}
teacher_names = {f"u{i}" if i not in shared.values() else f"both{next(s for s, t in shared.items() if t == i)}": i for i in range(teacher_vocabulary)}


def row(before, ends, vocabulary):
    """A row of `before` tokens that are not trained and of trained ones that end at these bytes, the last being the EOS."""
    length = before + len(ends)
    ids = torch.randint(0, vocabulary, (1, length))
    labels = ids.clone()
    labels[:, :before] = -100
    offsets = torch.zeros(1, length, 2, dtype=torch.long)
    offsets[0, before:, 1] = torch.tensor(ends)
    return {"ids": ids, "labels": labels, "offsets": offsets, "before": before, "ends": ends, "logits": torch.randn(1, length, vocabulary) * 2}


rows = [
    (row(2, [2, 3, 6, 9, 9], student_vocabulary), row(3, [3, 5, 9, 9], teacher_vocabulary)),
    (row(1, [1, 2, 4, 6, 7, 12, 12], student_vocabulary), row(1, [4, 8, 10, 12, 12], teacher_vocabulary)),
    (row(3, [5, 5], student_vocabulary), row(2, [1, 2, 5, 5], teacher_vocabulary)),
]
cases = []
for extended, strategy, hybrid, weights, beta, student_temperature in (
    (True, "bayesian", False, None, 0.5, 1.0), (True, "observed", False, None, 0.5, 1.0), (False, "bayesian", False, None, 0.5, 1.0), (False, "observed", False, None, 0.5, 2.0),
    (True, "bayesian", True, None, 0.5, 1.0), (True, "observed", True, (0.7, 0.4), 0.0, 1.0), (True, "bayesian", True, (1.0, 0.0), 1.0, 2.0), (True, "bayesian", False, None, 0.5, 2.0),
):
    config = SimpleNamespace(
        uld_crossentropy_weight=0.0, uld_distillation_weight=1.0, uld_student_temperature=student_temperature, uld_teacher_temperature=student_temperature,
        uld_skip_student_eos=True, uld_skip_teacher_eos=True, use_extended_uld=extended, uld_token_merge_strategy=strategy, uld_use_hybrid_loss=hybrid,
        uld_hybrid_matched_weight=weights[0] if weights else None, uld_hybrid_unmatched_weight=weights[1] if weights else None, beta=beta,
    )
    loss_of = ULDLoss(config, SimpleNamespace(get_vocab=lambda: student_names), SimpleNamespace(get_vocab=lambda: teacher_names))
    results = []
    for student, teacher in rows:
        logits = student["logits"].clone().requires_grad_()
        loss = loss_of(logits, teacher["logits"], student["labels"], teacher["labels"], student["ids"], teacher["ids"], student["offsets"], teacher["offsets"])
        loss.backward()
        results.append({"loss": loss.item(), "gradient": logits.grad.flatten().tolist()})
    cases.append({"extended": extended, "strategy": strategy, "hybrid": hybrid, "weights": weights, "beta": beta, "temperature": student_temperature, "rows": results})

alignments = []
for _ in range(40):
    total = random.randint(1, 12)
    ends = [sorted(random.sample(range(1, total + 1), random.randint(1, total))) for _ in range(2)]
    if random.random() < 0.3:
        ends[0].append(ends[0][-1])
    groups = ULDLoss._align_by_byte_offsets([(0, e) for e in ends[0]], [(0, e) for e in ends[1]])
    alignments.append({"student": ends[0], "teacher": ends[1], "groups": [[s[0], s[-1] + 1, t[0], t[-1] + 1] for s, t in zip(*groups) if s and t]})

side = lambda one: {"ids": one["ids"].flatten().tolist(), "before": one["before"], "ends": one["ends"], "logits": one["logits"].flatten().tolist()}
golden = {
    "trl": trl.__version__, "vocabularies": [student_vocabulary, teacher_vocabulary], "shared": {"student": list(shared), "teacher": list(shared.values())},
    "rows": [{"student": side(s), "teacher": side(t)} for s, t in rows], "cases": cases, "alignments": alignments,
}
Path(__file__).with_name("uld.json").write_text(json.dumps(golden) + "\n")
