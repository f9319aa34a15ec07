"""What the tests of advantages and policy losses need of the numbers that TRL 1.13's own trainers gave (GRPOTrainer, RLOOTrainer, PPOTrainer; float64).

    python record.py golden_trl_1.13.json golden_ppo_rrhf_nf4.json
"""
import json
import pathlib
import sys

trl, ppo = (json.loads(pathlib.Path(name).read_text()) for name in sys.argv[1:3])
kept = {
    "trl": trl["trl_version"],
    "torch": trl["torch"],
    "grpo": trl["grpo_loss"],
    "rloo": trl["rloo_loss"],
    "advantages": trl["advantages"],
    "ppo": {"inputs": ppo["inputs"], "cases": ppo["cases"]},
}
(pathlib.Path(__file__).parent / "trl.json").write_text(json.dumps(kept))
