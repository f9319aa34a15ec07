"""Checks a quantised folder that anneal wrote: transformers reads its config, and a plain model of transformers, with the weights that the codes stand for by the
formulas of bitsandbytes and AutoGPTQ, gives the logits of FOLDER/logits.json. tests/quantization/write-saved.mts writes such folders.

    pip install 'transformers==5.18.0' torch==2.13.0 safetensors
    python check_saved.py FOLDER...
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig


def four_bit(name, tensors):
    """Linear4bit: the first code of a byte is the high one; scales of blocks that run through the weight row by row."""
    key = next(key for key in tensors if key.startswith(f"{name}.quant_state.bitsandbytes__"))
    state = json.loads(bytes(tensors[key].tolist()))
    absmax = tensors[f"{name}.absmax"]
    if "nested_blocksize" in state:
        which = torch.arange(len(absmax)) // state["nested_blocksize"]
        absmax = tensors[f"{name}.nested_quant_map"][absmax.long()] * tensors[f"{name}.nested_absmax"][which] + torch.tensor(state["nested_offset"])
    packed = tensors[name].flatten().long()
    codes = torch.stack([packed >> 4, packed & 15], 1).flatten()[: state["shape"][0] * state["shape"][1]]
    values = tensors[f"{name}.quant_map"][codes] * absmax[torch.arange(len(codes)) // state["blocksize"]]
    return values.reshape(state["shape"])


def gptq(layer, tensors, config):
    """Codes along the inputs, zero points along the outputs; version 1 stores them less one."""
    bits = config["bits"]
    shifts = torch.arange(0, 32, bits)
    mask = 2**bits - 1
    codes = (tensors[f"{layer}.qweight"].unsqueeze(1) >> shifts[None, :, None] & mask).flatten(0, 1)
    zeros = (tensors[f"{layer}.qzeros"].unsqueeze(2) >> shifts & mask).flatten(1)
    zeros = zeros + (0 if config["checkpoint_format"] == "gptq_v2" else 1) & mask
    group = tensors[f"{layer}.g_idx"].long()
    return ((codes - zeros[group]).float() * tensors[f"{layer}.scales"].float()[group]).T


for folder in map(pathlib.Path, sys.argv[1:]):
    config = AutoConfig.from_pretrained(folder)
    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    tensors = load_file(folder / "model.safetensors")
    weights, own = {}, set()
    for name in tensors:
        if name.endswith(".quant_map"):
            weight = name.removesuffix(".quant_map")
            weights[weight] = four_bit(weight, tensors)
            own |= {key for key in tensors if key.startswith(weight)}
        elif name.endswith(".qweight"):
            layer = name.removesuffix(".qweight")
            weights[f"{layer}.weight"] = gptq(layer, tensors, quantization)
            own |= {f"{layer}.{key}" for key in ("qweight", "qzeros", "scales", "g_idx")}
    if quantization["quant_method"] == "bitsandbytes":
        read = BitsAndBytesConfig.from_dict(quantization)
        assert read.load_in_4bit and read.bnb_4bit_quant_type == quantization["bnb_4bit_quant_type"] and "lm_head" in read.llm_int8_skip_modules
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    if config.model_type == "gpt2":
        weights = {name: weight.T.contiguous() for name, weight in weights.items()}
    plain = {name: tensor for name, tensor in tensors.items() if name not in own}
    missing, unexpected = model.load_state_dict({**plain, **weights}, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    recorded = json.loads((folder / "logits.json").read_text())
    with torch.no_grad():
        logits = model(torch.tensor([recorded["input_ids"]])).logits[0]
    expected = torch.tensor(recorded["logits"]).reshape(logits.shape)
    difference = ((logits - expected).abs().max() / expected.abs().max()).item()
    print(f"{folder.name}: {len(weights)} quantised layers, logits differ by {difference:.1e} of the largest")
    assert difference < 1e-5
