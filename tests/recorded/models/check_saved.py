"""Loads models that anneal wrote with transformers and compares the logits.

python check_saved.py FOLDER        (FOLDER is written by: npx tsx tests/models/write-saved.mts FOLDER)

Each model folder holds what savePretrained() wrote and logits.json: inputIds and anneal's own logits, of a causal language model those of the last token of
each sequence, of another all.
Prints a line a model, and writes saved.json beside this script.
"""
import json
import sys
from pathlib import Path

import torch
import transformers

transformers.logging.set_verbosity_error()
result = {"transformers": transformers.__version__, "torch": torch.__version__, "models": {}}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    recorded = json.loads((folder / "logits.json").read_text())
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    unexpected = [k for k in info["unexpected_keys"]] + [k for k in info["missing_keys"]] + [str(k) for k in info["mismatched_keys"]]
    stored = str(model.dtype)
    model = model.float().eval()
    worst = 0.0
    for ids, logits in zip(recorded["inputIds"], recorded["logits"]):
        expected = torch.tensor(logits, dtype=torch.float64)
        with torch.no_grad():
            got = model(input_ids=torch.tensor([ids])).logits[0].double()
        got = (got[-1] if architecture.endswith(("CausalLM", "LMHeadModel")) else got).flatten()
        worst = max(worst, ((got - expected).abs().max() / expected.abs().max()).item())
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    result["models"][folder.name] = {
        "class": type(model).__name__, "dtype": stored, "files": len(files), "keysThatDoNotFit": unexpected, "largestRelativeDifference": float(f"{worst:.2g}"),
    }
    print(f"{folder.name:22} {type(model).__name__:32} {stored:15} {len(files)} files, keys that do not fit: {len(unexpected)}, logits differ by {worst:.1e}")
    assert not unexpected and worst < 2e-5, folder
(Path(__file__).parent / "saved.json").write_text(json.dumps(result, indent=1) + "\n")
