"""Layers as GPTQ and AWQ write them, packed here from random codes, zero points and scales by the layouts of AutoGPTQ and AutoAWQ, and the SHA-256 of what they
stand for: (code - zero) * scale in float32, [out, in] row by row. For the shapes of ../models/llama2.

    pip install numpy safetensors
    python record.py
"""
import hashlib
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

here = pathlib.Path(__file__).parent
config = json.loads((here.parent / "models" / "llama2" / "config.json").read_text())
hidden, inner = config["hidden_size"], config["intermediate_size"]
keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
layers = {f"model.layers.{i}.self_attn.{p}_proj": (keys if p in "kv" else hidden, hidden) for i in range(2) for p in "qkvo"}
layers |= {f"model.layers.{i}.mlp.{p}_proj": (inner, hidden) for i in range(2) for p in ("gate", "up")}
layers |= {f"model.layers.{i}.mlp.down_proj": (hidden, inner) for i in range(2)}


def pack(values, bits, axis, order=None):
    """uint32 words of 32 / bits values along an axis; nibble i of a word holds value order[i] of its group."""
    count = 32 // bits
    order = order or range(count)
    values = np.moveaxis(values.astype(np.uint32), axis, -1)
    values = values.reshape(*values.shape[:-1], -1, count)
    words = np.zeros(values.shape[:-1], np.uint32)
    for i, which in enumerate(order):
        words |= values[..., which] << np.uint32(bits * i)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def case(name, method, bits=4, group=8, symmetric=True, version=1, quantization=None, index=None):
    random = np.random.default_rng(len(name))
    tensors, hashes = {}, {}
    for layer, (out, inputs) in layers.items():
        size = inputs if group == -1 else group
        groups = inputs // size
        codes = random.integers(0, 2**bits, (inputs, out))
        zeros = np.full((groups, out), 2 ** (bits - 1)) if symmetric else random.integers(1, 2**bits, (groups, out))
        scales = (random.random((groups, out)) * 0.02 + 0.001).astype(np.float16)
        of = np.arange(inputs) // size if index is None else index(inputs, size)
        weight = (codes - zeros[of]).astype(np.float32) * scales[of].astype(np.float32)
        hashes[layer] = hashlib.sha256(np.ascontiguousarray(weight.T).tobytes()).hexdigest()
        if method == "awq":
            order = [0, 2, 4, 6, 1, 3, 5, 7]
            tensors |= {f"{layer}.qweight": pack(codes, 4, 1, order), f"{layer}.qzeros": pack(zeros, 4, 1, order), f"{layer}.scales": scales}
        else:
            stored = zeros - (1 if version == 1 else 0)
            tensors |= {f"{layer}.qweight": pack(codes, bits, 0), f"{layer}.qzeros": pack(stored, bits, 1), f"{layer}.scales": scales, f"{layer}.g_idx": of.astype(np.int32)}
    save_file(tensors, here / f"{name}.safetensors")
    return {"quantization_config": {"quant_method": method, "bits": bits, "group_size": group, **(quantization or {})}, "sha256": hashes}


expected = {
    "gptq-4bit": case("gptq-4bit", "gptq", quantization={"sym": True, "desc_act": False}),
    "gptq-4bit-asymmetric": case("gptq-4bit-asymmetric", "gptq", symmetric=False, quantization={"sym": False, "desc_act": False}),
    "gptq-v2-rows": case("gptq-v2-rows", "gptq", group=-1, symmetric=False, version=2, quantization={"sym": False, "desc_act": False, "checkpoint_format": "gptq_v2"}),
    "gptq-8bit": case("gptq-8bit", "gptq", bits=8, group=8, quantization={"sym": True, "desc_act": False, "checkpoint_format": "gptq"}),
    "awq": case("awq", "awq", symmetric=False, quantization={"version": "gemm", "zero_point": True}),
}
(here / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
