"""Records the learning-rate multipliers of every transformers schedule, step by step.

Run: python record.py   (needs torch and transformers; writes recorded.json beside itself)
"""
import json, os, warnings
import torch, transformers
from transformers.optimization import get_scheduler

warnings.filterwarnings("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
LR = 3e-4


def optimizer():
    # lr 1 would hide schedules that divide by the initial rate.
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)


def fixed(name, warmup, total, kwargs=None):
    scheduler = get_scheduler(name, optimizer(), num_warmup_steps=warmup, num_training_steps=total, scheduler_specific_kwargs=kwargs)
    steps = sorted({s for s in [*range(0, 12), *range(0, total + 8, max(1, total // 37)), *range(max(0, total - 3), total + 8), warmup, warmup + 1, max(0, warmup - 1)]})
    factor = (lambda s: 1.0) if name == "constant" else scheduler.lr_lambdas[0]
    return {"name": name, "warmup": warmup, "total": total, "kwargs": kwargs, "steps": steps, "multipliers": [float(factor(s)) for s in steps]}


FIXED = []
for warmup, total in [(0, 100), (10, 100), (7, 1000), (100, 100), (3, 4)]:
    for name in ["constant", "constant_with_warmup", "linear", "cosine", "inverse_sqrt"]:
        FIXED.append(fixed(name, warmup, total))
    if warmup < total:
        FIXED.append(fixed("polynomial", warmup, total))
        FIXED.append(fixed("polynomial", warmup, total, {"power": 2.0, "lr_end": 1e-5}))
    FIXED.append(fixed("cosine", warmup, total, {"num_cycles": 1.25}))
    FIXED.append(fixed("cosine_with_restarts", warmup, total))
    FIXED.append(fixed("cosine_with_restarts", warmup, total, {"num_cycles": 3}))
    FIXED.append(fixed("inverse_sqrt", warmup, total, {"timescale": 50 if warmup < 50 else 500}))
    FIXED.append(fixed("cosine_with_min_lr", warmup, total, {"min_lr": 3e-5}))
    FIXED.append(fixed("cosine_with_min_lr", warmup, total, {"min_lr_rate": 0.2, "num_cycles": 0.75}))
    FIXED.append(fixed("cosine_warmup_with_min_lr", warmup, total, {"min_lr_rate": 0.1}))
    FIXED.append(fixed("cosine_warmup_with_min_lr", warmup, total, {"min_lr": 1e-5, "warmup_lr_rate": 0.05}))
    for decay in ["linear", "cosine", "1-sqrt"]:
        for ramp in ["linear", "cosine", "1-sqrt"]:
            FIXED.append(fixed("warmup_stable_decay", warmup, total, {"num_decay_steps": total // 5, "decay_type": decay, "warmup_type": ramp, "min_lr_ratio": 0.1}))
    FIXED.append(fixed("warmup_stable_decay", warmup, total, {"num_decay_steps": total // 4}))
    FIXED.append(fixed("warmup_stable_decay", warmup, total, {"num_decay_steps": total // 4, "num_stable_steps": total // 8, "num_cycles": 1.5}))


def metric(i):
    """Falls, stalls, jumps and falls again, so that every branch is met."""
    return round(2.0 / (1 + 0.2 * min(i, 15)) + (0.7 if 30 <= i < 40 else 0) - (0.01 * (i - 60) if i > 60 else 0), 6)


def adaptive(name, kwargs, count=160):
    opt = optimizer()
    scheduler = get_scheduler(name, opt, scheduler_specific_kwargs=kwargs)
    metrics = [metric(i) if kwargs.get("mode", "min") == "min" else -metric(i) for i in range(count)]
    rates = []
    for value in metrics:
        scheduler.step(value)
        rates.append(opt.param_groups[0]["lr"])
    return {"name": name, "kwargs": kwargs, "metrics": metrics, "rates": rates}


ADAPTIVE = [
    adaptive("reduce_lr_on_plateau", {}),
    adaptive("reduce_lr_on_plateau", {"factor": 0.5, "patience": 2, "cooldown": 3, "min_lr": 1e-6}),
    adaptive("reduce_lr_on_plateau", {"mode": "max", "factor": 0.3, "patience": 1, "threshold": 0.05, "threshold_mode": "abs", "eps": 1e-7}),
    adaptive("reduce_lr_on_plateau", {"mode": "max", "factor": 0.3, "patience": 4, "threshold": 0.01, "threshold_mode": "rel"}),
    adaptive("greedy", {"min_lr": 1e-5, "max_lr": 1e-3}),
    adaptive("greedy", {"min_lr": 1e-4, "max_lr": 5e-4, "patience": 1, "factor": 0.8, "cooldown": 2, "warmup": 3, "reset_start": 3}),
    adaptive("greedy", {"min_lr": 1e-4, "max_lr": 5e-4, "patience": 2, "factor": 0.7, "smooth": True, "window_size": 5, "mode": "max", "reset_start": 2}),
    adaptive("greedy", {"min_lr": 1e-4, "max_lr": 5e-4, "patience": 2, "factor": 0.7, "threshold": 0.01, "threshold_mode": "rel"}),
]

with open(os.path.join(HERE, "recorded.json"), "w") as f:
    json.dump({"transformers": transformers.__version__, "lr": LR, "fixed": FIXED, "adaptive": ADAPTIVE}, f, separators=(",", ":"))
