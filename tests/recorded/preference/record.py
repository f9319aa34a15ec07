"""What the tests of preference losses need of the numbers that TRL 1.13's own trainers gave (DPO, KTO, ORPO, CPO, Reward) and of the RRHF authors'
script (float64; ORPO in float32, as TRL computes it).

    python record.py golden_trl_1.13.json golden_ppo_rrhf_nf4.json
"""
import json
import pathlib
import sys

trl, ppo = (json.loads(pathlib.Path(name).read_text()) for name in sys.argv[1:3])
kept = {"trl": trl["trl_version"], "torch": trl["torch"], **{name: trl[name] for name in ("dpo", "kto", "orpo", "cpo_simpo", "reward")}, "rrhf": ppo["rrhf"]}
(pathlib.Path(__file__).parent / "losses.json").write_text(json.dumps(kept))
