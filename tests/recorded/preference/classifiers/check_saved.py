"""Loads the classifiers that anneal saved into a folder with transformers and compares their logits with those recorded.

    python check_saved.py FOLDER
"""
import json
import pathlib
import sys

import torch
import transformers as t

results = json.loads((pathlib.Path(__file__).parent / "logits.json").read_text())
for name, wanted in results["logits"].items():
    auto = t.AutoModelForTokenClassification if "steps" in name else t.AutoModelForSequenceClassification
    model, info = auto.from_pretrained(pathlib.Path(sys.argv[1]) / name, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    for sequence, logits in zip(results["sequences"], wanted):
        with torch.no_grad():
            got = model.eval().double()(torch.tensor([sequence])).logits[0]
        assert torch.allclose(got, torch.tensor(logits, dtype=torch.float64), atol=1e-6), name
    print(name, type(model).__name__, model.config.id2label)
