"""Loads adapters that anneal wrote with PEFT and compares the logits.

python check_saved.py FOLDER        (FOLDER is written by: npx tsx tests/adapters/write-saved.mts FOLDER)

Each folder holds what saveAdapter() wrote and logits.json: the base's family, inputIds and anneal's own logits of the last token of each sequence.
Prints a line an adapter, and writes saved.json beside this script.
"""
import json
import sys
import warnings
from pathlib import Path

import peft
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM



def base(family):
    folder = Path(__file__).parent.parent / "models" / family
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


result = {"peft": peft.__version__, "torch": torch.__version__, "adapters": {}}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    recorded = json.loads((folder / "logits.json").read_text())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base(recorded["family"]), folder).eval()
    said = sorted({str(w.message).split(".")[0] for w in caught if "peft" in str(w.filename)})
    worst = 0.0
    for ids, logits in zip(recorded["inputIds"], recorded["logits"]):
        expected = torch.tensor(logits, dtype=torch.float64)
        with torch.no_grad():
            got = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits[0, -1].double()
        worst = max(worst, ((got - expected).abs().max() / expected.abs().max()).item())
    result["adapters"][folder.name] = {"largestRelativeDifference": float(f"{worst:.2g}"), "warnings": said}
    print(f"{folder.name:20} logits differ by {worst:.1e}", *said)
    # PEFT decomposes PiSSA's base anew, exactly; anneal iterates.
    assert worst < (2e-4 if folder.name.startswith("pissa") else 2e-5), folder
(Path(__file__).parent / "saved.json").write_text(json.dumps(result, indent=1) + "\n")
