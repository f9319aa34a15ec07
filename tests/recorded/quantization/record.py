"""Codes, scales and numbers of bitsandbytes' 4-bit quantisation, with and without double quantisation, and its 8-bit code books; of the weight in nf4.json.

    pip install 'bitsandbytes>=0.46' torch==2.13.0
    python record.py
"""
import json
import pathlib

import bitsandbytes.functional as F
import torch

here = pathlib.Path(__file__).parent
weight = torch.tensor(json.loads((here / "nf4.json").read_text())["W"])
cases = []
for double in (False, True):
    packed, state = F.quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type="nf4")
    cases.append({
        "double_quant": double,
        "packed_uint8": packed.flatten().tolist(),
        "absmax": state.absmax.tolist(),
        "nested_absmax": state.state2.absmax.tolist() if double else None,
        "nested_offset": state.offset.item() if double else None,
        "dequant": F.dequantize_4bit(packed, state).tolist(),
    })
(here / "nf4.json").write_text(json.dumps({"W": weight.tolist(), "blocksize": 64, "nested_blocksize": 256, "cases": cases}))
maps = {"signed": F.create_dynamic_map(signed=True).tolist(), "unsigned": F.create_dynamic_map(signed=False).tolist()}
(here / "maps.json").write_text(json.dumps(maps))
