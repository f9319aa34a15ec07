# What ggml's reference quantizers make of given numbers, as Python's gguf has them. Needs gguf 0.19 and numpy 2. Run: python record.py
import base64
import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

random = np.random.default_rng(7)
blocks = [random.normal(0, scale, 32) for scale in (1, 0.02, 1e-3, 30) for _ in range(6)]
blocks += [
    np.zeros(32), np.full(32, 0.5), np.full(32, -0.5), np.arange(32) - 16, np.arange(32) / 2 - 7.75,
    # Halves, which round away from zero in Q8_0.
    np.concatenate([[127], np.arange(31) - 15.5]),
    # Two of the same size: the first decides the sign of Q4_0's scale.
    np.concatenate([[3, -3], np.linspace(-1, 1, 30)]), np.concatenate([[-3, 3], np.linspace(-1, 1, 30)]),
    # Scales that are subnormal in float16, or vanish there.
    random.normal(0, 1e-5, 32), random.normal(0, 1e-7, 32), random.normal(0, 1e-9, 32),
    random.normal(0, 6e4, 32), -np.abs(random.normal(0, 1, 32)),
]
values = np.stack(blocks).astype(np.float32)
halves = np.array([0, -0.0, 1, 65504, -65504, 65519.9, 6.1e-5, 5.96e-8, 2.98e-8, 2.99e-8, 1e-9, 1 + 2**-11, 1 + 3 * 2**-11, 2**-14 - 2**-26, 0.1, 1 / 3], dtype=np.float32)


def text(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


formats = {}
for name in ("Q8_0", "Q4_0", "BF16"):
    kind = GGMLQuantizationType[name]
    bytes_ = quantize(values, kind)
    formats[name] = {"bytes": text(bytes_), "back": text(dequantize(bytes_, kind).astype(np.float32))}
half_values = np.concatenate([values.flatten()[np.abs(values.flatten()) < 65519], halves])
formats["F16"] = {"values": text(half_values), "bytes": text(half_values.astype(np.float16)), "back": text(half_values.astype(np.float16).astype(np.float32))}
Path(__file__).with_name("blocks.json").write_text(json.dumps({"values": text(values), "formats": formats}, indent=1) + "\n")
