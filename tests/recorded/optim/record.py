"""Records five steps of torch.optim.AdamW with clip_grad_norm_. Run in this folder: python record.py"""
import json
import torch

torch.manual_seed(0)
recorded = []
for name, options, max_norm in (
    ("default", {}, 1.0),
    ("large steps and decay", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}, 0.5),
    ("no decay, no clipping", {"lr": 0.02, "weight_decay": 0.0}, 0.0),
):
    parameter = torch.nn.Parameter(torch.randn(37))
    optimizer = torch.optim.AdamW([parameter], foreach=False, fused=False, **options)
    group = optimizer.param_groups[0]
    entry = {
        "name": name, "maxNorm": max_norm, "learningRate": group["lr"], "betas": list(group["betas"]), "eps": group["eps"],
        "weightDecay": group["weight_decay"], "parameter": parameter.tolist(), "steps": [],
    }
    for step in range(5):
        gradient = torch.randn(37) * 10.0 ** (1 - step)
        parameter.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_([parameter], max_norm) if max_norm > 0 else gradient.norm()
        optimizer.step()
        state = optimizer.state[parameter]
        entry["steps"].append({
            "gradient": gradient.tolist(), "norm": norm.item(), "parameter": parameter.tolist(),
            "first": state["exp_avg"].tolist(), "second": state["exp_avg_sq"].tolist(),
        })
    recorded.append(entry)

with open("adamw.json", "w") as file:
    json.dump({"torch": torch.__version__.split("+")[0], "runs": recorded}, file)
    file.write("\n")
