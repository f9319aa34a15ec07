"""Layers as GPTQ, AWQ and LLM.int8() have them, packed here from random codes, zero points and scales by the layouts of AutoGPTQ, AutoAWQ and bitsandbytes, and
the SHA-256 of what they stand for: (code - zero) * scale in float32, [out, in] row by row. For the shapes of ../models/llama2. With `torch`, what
transformers computes with such weights in ../models/llama2: logits, and the loss's gradient with respect to the embeddings and to LoRA factors.

    pip install numpy safetensors torch==2.13.0 transformers==5.18.0 peft==0.21.0
    python record.py
"""
import hashlib
import json
import pathlib

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

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


def computed(weights):
    """What transformers and PEFT compute with dense weights [out, in] in the place of the model's own; LoRA r 4 on q_proj and down_proj, factors of a sine."""
    model = AutoModelForCausalLM.from_pretrained(here.parent / "models" / "llama2", dtype=torch.float32, attn_implementation="eager").eval()
    for layer, weight in weights.items():
        model.get_submodule(layer).weight.data = torch.from_numpy(np.array(weight))
    ids = torch.tensor([[5, 9, 30, 77, 100, 12, 14, 3]])
    plain = model(ids).logits[0, -1].detach()
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    factors = {name: parameter for name, parameter in tuned.named_parameters() if "lora_" in name}
    for parameter in factors.values():
        parameter.data = torch.sin(torch.arange(parameter.numel(), dtype=torch.float32)).reshape(parameter.shape) * 0.2
    table = tuned.get_input_embeddings().weight.requires_grad_()
    result = tuned(ids, labels=ids)
    result.loss.backward()
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    down = "base_model.model.model.layers.1.mlp.down_proj.lora_A.default.weight"
    rounded = lambda values: [float(f"{value:.6g}") for value in values.flatten().tolist()]
    return {"logits": rounded(plain), "loraLogits": rounded(result.logits[0, -1].detach()), "loss": result.loss.item(),
            "embeddings": rounded(table.grad[ids[0]]), "qA": rounded(factors[first].grad), "downA": rounded(factors[down].grad)}


def shuffled(inputs, size):
    """Groups as act-order leaves them: each of its size, the inputs anywhere."""
    return np.random.default_rng(7).permutation(np.arange(inputs) // size)


def case(name, method, bits=4, group=8, symmetric=True, version=1, quantization=None, index=None, compute=False):
    random = np.random.default_rng(len(name))
    tensors, hashes, weights = {}, {}, {}
    for layer, (out, inputs) in layers.items():
        size = inputs if group == -1 else group
        groups = inputs // size
        codes = random.integers(0, 2**bits, (inputs, out))
        zeros = np.full((groups, out), 2 ** (bits - 1)) if symmetric else random.integers(1, 2**bits, (groups, out))
        scales = (random.random((groups, out)) * 0.02 + 0.001).astype(np.float16)
        of = np.arange(inputs) // size if index is None else index(inputs, size)
        weight = (codes - zeros[of]).astype(np.float32) * scales[of].astype(np.float32)
        weights[layer] = weight.T
        hashes[layer] = hashlib.sha256(np.ascontiguousarray(weight.T).tobytes()).hexdigest()
        if method == "awq":
            order = [0, 2, 4, 6, 1, 3, 5, 7]
            tensors |= {f"{layer}.qweight": pack(codes, 4, 1, order), f"{layer}.qzeros": pack(zeros, 4, 1, order), f"{layer}.scales": scales}
        else:
            stored = zeros - (1 if version == 1 else 0)
            tensors |= {f"{layer}.qweight": pack(codes, bits, 0), f"{layer}.qzeros": pack(stored, bits, 1), f"{layer}.scales": scales, f"{layer}.g_idx": of.astype(np.int32)}
    save_file(tensors, here / f"{name}.safetensors")
    return {"quantization_config": {"quant_method": method, "bits": bits, "group_size": group, **(quantization or {})}, "sha256": hashes, **({"computed": computed(weights)} if compute else {})}


def int8(name):
    """LLM.int8() as bitsandbytes saves it: weight int8 [out, in], SCB float32 [out], the largest magnitude of each row. W = weight * SCB / 127."""
    random = np.random.default_rng(len(name))
    tensors, hashes, weights = {}, {}, {}
    for layer, (out, inputs) in layers.items():
        codes = random.integers(-127, 128, (out, inputs)).astype(np.int8)
        absmax = (random.random(out) * 0.5 + 0.05).astype(np.float32)
        weights[layer] = codes.astype(np.float32) * (absmax / np.float32(127))[:, None]
        hashes[layer] = hashlib.sha256(weights[layer].tobytes()).hexdigest()
        tensors |= {f"{layer}.weight": codes, f"{layer}.SCB": absmax, f"{layer}.weight_format": np.array(0, np.uint8)}
    save_file(tensors, here / f"{name}.safetensors")
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False, "llm_int8_threshold": 6.0, "llm_int8_skip_modules": None, "llm_int8_has_fp16_weight": False}
    return {"quantization_config": config, "sha256": hashes, "computed": computed(weights)}


expected = {
    "gptq-4bit": case("gptq-4bit", "gptq", quantization={"sym": True, "desc_act": False}),
    "gptq-4bit-asymmetric": case("gptq-4bit-asymmetric", "gptq", symmetric=False, quantization={"sym": False, "desc_act": False}),
    "gptq-v2-rows": case("gptq-v2-rows", "gptq", group=-1, symmetric=False, version=2, quantization={"sym": False, "desc_act": False, "checkpoint_format": "gptq_v2"}),
    "gptq-8bit": case("gptq-8bit", "gptq", bits=8, group=8, quantization={"sym": True, "desc_act": False, "checkpoint_format": "gptq"}),
    "gptq-act-order": case("gptq-act-order", "gptq", index=shuffled, compute=True, quantization={"sym": True, "desc_act": True, "checkpoint_format": "gptq"}),
    "gptq-v2-8bit-act-order": case("gptq-v2-8bit-act-order", "gptq", bits=8, symmetric=False, version=2, index=shuffled, compute=True,
                                   quantization={"sym": False, "desc_act": True, "checkpoint_format": "gptq_v2"}),
    "gptq-8bit-asymmetric": case("gptq-8bit-asymmetric", "gptq", bits=8, symmetric=False, quantization={"sym": False, "desc_act": False}),
    "llm-int8": int8("llm-int8"),
    "awq": case("awq", "awq", symmetric=False, quantization={"version": "gemm", "zero_point": True}),
}
(here / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
