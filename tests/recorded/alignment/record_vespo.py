"""VESPO's loss and gradient as TRL 1.13's GRPOTrainer computes them (float64), for answers of another engine and with a KL to the reference.

    python record_vespo.py

Needs trl 1.13 and torch. Inputs are those of trl.json.
"""
import json
import pathlib
from collections import defaultdict
from types import SimpleNamespace

import torch
import trl
from trl import GRPOTrainer

torch.set_default_dtype(torch.float64)
here = pathlib.Path(__file__).parent
given = json.loads((here / "trl.json").read_text())["grpo"]["inputs"]
table = lambda name: torch.tensor(given[name])
mask = table("completion_mask")
# Log-probabilities of the sampler: near the old policy's, and far from them where weights are cut.
generator = torch.Generator().manual_seed(3)
sampler = {"near": table("old_per_token_logps") + 0.2 * torch.randn(mask.shape, generator=generator), "far": table("old_per_token_logps") + 1.5 * torch.randn(mask.shape, generator=generator)}


def ratio(mode, sampled, most, least):
    """TRL's _generate_and_score_completions: the weight of each token, cut to the bounds or 0 beyond them."""
    weight = torch.exp(torch.nan_to_num((table("old_per_token_logps") - sampled) * mask, nan=0.0))
    if mode == "token_truncate":
        return torch.clamp(weight, min=least, max=most)
    return weight.masked_fill((weight < (least if least is not None else -torch.inf)) | (weight > most), 0.0)


def case(engine, mode, beta, corrected, most=3.0, least=None, level="token"):
    logps = table("per_token_logps").clone().requires_grad_()
    args = SimpleNamespace(
        use_bias_correction_kl=corrected, vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0, steps_per_generation=1, delta=None, entropy_target=0.2
    )
    accelerator = SimpleNamespace(num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True)
    trainer = SimpleNamespace(
        args=args, accelerator=accelerator, model=SimpleNamespace(training=True), loss_type="vespo", beta=beta, epsilon_low=0.2, epsilon_high=0.2, importance_sampling_level=level, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, use_vllm=engine is not None, vllm_importance_sampling_correction=engine is not None, current_gradient_accumulation_steps=1, aux_loss_enabled=False, _entropy_bonus_enabled=False,
        max_completion_length=given["max_completion_length"], _metrics={"train": defaultdict(list)}, get_gamma_weights=GRPOTrainer.get_gamma_weights,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, table("entropies"), None),
    )
    inputs = {
        "prompt_ids": torch.zeros(mask.shape[0], 1, dtype=torch.long), "prompt_mask": torch.ones(mask.shape[0], 1), "completion_ids": torch.zeros(mask.shape, dtype=torch.long), "completion_mask": mask,
        "advantages": table("advantages"), "old_per_token_logps": table("old_per_token_logps"), "ref_per_token_logps": table("ref_per_token_logps"), "num_items_in_batch": mask.sum(),
    }
    if engine is not None:
        inputs["importance_sampling_ratio"] = ratio(mode, sampler[engine], most, least)
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return {
        "engine": engine, "mode": mode, "beta": beta, "corrected": corrected, "most": most, "least": least, "level": level, "loss": loss.item(), "gradient": logps.grad.tolist(),
        "kl": trainer._metrics["train"]["kl"][0] if beta else None,
    }


cases = [
    case("near", "token_truncate", 0.0, True), case("near", "token_mask", 0.0, True), case("far", "token_truncate", 0.0, True, least=0.3), case("far", "token_mask", 0.0, True, most=2.0),
    case("near", "token_truncate", 0.1, True), case("far", "token_mask", 0.1, False), case("near", "token_truncate", 0.1, True, level="sequence"), case(None, None, 0.1, True), case(None, None, 0.1, False),
]
(here / "vespo.json").write_text(json.dumps({"trl": trl.__version__, "torch": torch.__version__, "sampler": {name: value.tolist() for name, value in sampler.items()}, "cases": cases}))
