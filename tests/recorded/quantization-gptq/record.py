"""Layers as GPTQ checkpoints of 2, 3 and 4 bits have them, packed here word by word from random codes, zero points and scales as AutoGPTQ (pack of its
QuantLinear) and GPTQModel (convert_gptq_v2_to_v1_format) do it, and the SHA-256 of what they stand for: (code - zero) * scale in float32, [out, in] row by row.

    pip install numpy safetensors
    python record.py
"""
import hashlib
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

here = pathlib.Path(__file__).parent
layers = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.0.mlp.gate_proj": (96, 64), "model.layers.0.mlp.down_proj": (64, 96)}


def pack(values, bits):
    """uint32 words of values along the first axis. Of 3 bits, 32 lie in three words: ten, two bits and one; ten, one bit and two; ten."""
    values = values.astype(np.uint32)
    words = np.zeros((values.shape[0] * bits // 32, values.shape[1]), np.uint32)
    i = row = 0
    while row < words.shape[0]:
        if bits != 3:
            for j in range(32 // bits):
                words[row] |= values[i + j] << np.uint32(bits * j)
            i, row = i + 32 // bits, row + 1
            continue
        for j in range(10):
            words[row] |= values[i + j] << np.uint32(3 * j)
            words[row + 1] |= values[i + 11 + j] << np.uint32(3 * j + 1)
            words[row + 2] |= values[i + 22 + j] << np.uint32(3 * j + 2)
        words[row] |= values[i + 10] << np.uint32(30)
        words[row + 1] |= (values[i + 10] >> np.uint32(2)) & np.uint32(1)
        words[row + 1] |= values[i + 21] << np.uint32(31)
        words[row + 2] |= (values[i + 21] >> np.uint32(1)) & np.uint32(3)
        i, row = i + 32, row + 3
    return words


# What GPTQModel subtracts from words of zero points, with what that borrows; of 3 bits before its version 7.
subtracted = {2: [0x55555555], 3: [0b00100100100100100100100100100100, 0b10010010010010010010010010010010, 0b01001001001001001001001001001001], 4: [0x11111111]}


def words_of_zeros(zeros, bits, how):
    """how: v2, as they are; autogptq, each less one; gptqmodel, words less a constant."""
    packed = pack((zeros - (1 if how == "autogptq" else 0)).T, bits).T.astype(np.int64)
    if how == "gptqmodel":
        constants = subtracted[bits]
        packed -= np.array([constants[i % len(constants)] for i in range(packed.shape[1])])
    return np.ascontiguousarray((packed & 0xFFFFFFFF).astype(np.uint32)).view(np.int32)


def case(name, bits, how, group=16, symmetric=False, shuffled=False, **config):
    random = np.random.default_rng(len(name))
    tensors, hashes = {}, {}
    for layer, (out, inputs) in layers.items():
        size = inputs if group == -1 else group
        groups = inputs // size
        codes = random.integers(0, 2**bits, (inputs, out))
        # AutoGPTQ has no zero point of 0, which less one would run into its neighbours.
        zeros = np.full((groups, out), 2 ** (bits - 1)) if symmetric else random.integers(1 if how == "autogptq" else 0, 2**bits, (groups, out))
        scales = (random.random((groups, out)) * 0.02 + 0.001).astype(np.float16)
        of = np.arange(inputs) // size
        if shuffled:
            of = random.permutation(of)
        weight = ((codes - zeros[of]).astype(np.float32) * scales[of].astype(np.float32)).T
        hashes[layer] = hashlib.sha256(np.ascontiguousarray(weight).tobytes()).hexdigest()
        tensors |= {f"{layer}.qweight": pack(codes, bits).view(np.int32), f"{layer}.qzeros": words_of_zeros(zeros, bits, how), f"{layer}.scales": scales}
        tensors[f"{layer}.g_idx"] = of.astype(np.int32)
    save_file(tensors, here / f"{name}.safetensors")
    return {"quantization_config": {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, "desc_act": shuffled, **config}, "sha256": hashes}


made_by = lambda *makers: {"meta": {"quantizer": list(makers)}}
expected = {
    "2bit": case("2bit", 2, "autogptq", symmetric=True),
    "2bit-asymmetric": case("2bit-asymmetric", 2, "autogptq"),
    "2bit-borrows": case("2bit-borrows", 2, "gptqmodel", shuffled=True, checkpoint_format="gptq", **made_by("gptqmodel:4.2.5")),
    "2bit-v2-rows": case("2bit-v2-rows", 2, "v2", group=-1, checkpoint_format="gptq_v2"),
    "3bit": case("3bit", 3, "autogptq", symmetric=True),
    "3bit-asymmetric": case("3bit-asymmetric", 3, "autogptq", shuffled=True),
    "3bit-new": case("3bit-new", 3, "autogptq", checkpoint_format="gptq", **made_by("gptqmodel:7.3.4")),
    "3bit-old": case("3bit-old", 3, "gptqmodel", symmetric=True, checkpoint_format="gptq", **made_by("gptqmodel:2.2.0")),
    "3bit-old-asymmetric": case("3bit-old-asymmetric", 3, "gptqmodel", shuffled=True, checkpoint_format="gptq", **made_by("optimum:1.27.0", "gptqmodel:4.2.5")),
    "3bit-v2": case("3bit-v2", 3, "v2", shuffled=True, checkpoint_format="gptq_v2"),
    "4bit-borrows": case("4bit-borrows", 4, "gptqmodel", checkpoint_format="gptq", **made_by("gptqmodel:4.2.5")),
}
(here / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
