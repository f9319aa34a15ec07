"""Records what Python's safetensors and transformers write, and which hand-made files safetensors accepts.

Run: python record.py   (needs safetensors, torch, huggingface_hub; writes recorded.json beside itself)
"""
import hashlib, json, os, struct, tempfile
import safetensors, torch
from safetensors import safe_open
from safetensors.torch import save_file
from huggingface_hub import split_torch_state_dict_into_shards

HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = {"BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn,
          "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu,
          "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32,
          "F32": torch.float32, "C64": torch.complex64, "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64}


def pattern(n, seed):
    """Bytes both sides can make: BOOL needs 0 and 1 only, so every byte is one of them."""
    return bytes(((i * 7 + seed) >> 2) & 1 for i in range(n))


def saved(entries, metadata):
    tensors = {}
    for seed, (name, dtype, shape) in enumerate(entries):
        count = 1
        for s in shape:
            count *= s
        size = torch.empty(0, dtype=DTYPES[dtype]).element_size()
        raw = pattern(count * size, seed)
        tensors[name] = torch.frombuffer(bytearray(raw), dtype=DTYPES[dtype]).reshape(shape) if raw else torch.empty(shape, dtype=DTYPES[dtype])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.safetensors")
        save_file(tensors, path, metadata=metadata)
        data = open(path, "rb").read()
    length = struct.unpack("<Q", data[:8])[0]
    return {"entries": entries, "metadata": metadata, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "header": data[8:8 + length].decode()}


WRITTEN = [
    saved([["w", "F32", [2, 3]]], {"format": "pt"}),
    saved([["w", "F32", [2, 3]]], None),
    saved([], {"format": "pt"}),
    saved([["model.layers.10.w", "BF16", [4, 4]], ["model.layers.2.w", "BF16", [4, 4]], ["model.embed_tokens.weight", "BF16", [7, 4]],
           ["model.norm.weight", "F32", [4]], ["ids", "I64", [3]], ["scalar", "F32", []], ["empty", "F16", [0, 5]], ["mask", "BOOL", [5]]], {"format": "pt"}),
    saved([[f"t_{name}", name, [2, 3]] for name in DTYPES], {"format": "pt"}),
    saved([["\u00e9t\u00e9", "U8", [1]], ["z", "U8", [1]], ["\U0001f600", "U8", [1]], ["\uffee", "U8", [1]], ['quote"back\\slash', "U8", [2]], ["del\u2028", "U8", [2]]], {"format": "pt", }),
]


def hostile():
    def blob(header, data=b"", length=None):
        raw = header if isinstance(header, bytes) else header.encode()
        return struct.pack("<Q", len(raw) if length is None else length) + raw + data

    def one(**change):
        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        entry.update(change)
        return json.dumps({"a": {k: v for k, v in entry.items() if v is not ...}})
    d8 = bytes(8)
    two = lambda a, b: json.dumps({"a": {"dtype": "U8", "shape": [a[1] - a[0]], "data_offsets": a}, "b": {"dtype": "U8", "shape": [b[1] - b[0]], "data_offsets": b}})
    files = {
        "good": blob(one(), d8), "empty file": b"", "seven bytes": bytes(7), "only a length": struct.pack("<Q", 0), "empty object": blob("{}"),
        "padded": blob(one() + "   ", d8), "leading space": blob(" " + one(), d8), "header longer than file": blob(one(), d8, 10 ** 6),
        "header of 2^63": blob(one(), d8, 2 ** 63), "header of 2^64-1": blob(one(), d8, 2 ** 64 - 1), "header above limit": blob(one(), d8, 100_000_001),
        "not json": blob("{abc", d8), "array": blob("[]"), "number": blob("1"), "string": blob('"x"'), "null": blob("null"),
        "not utf-8": blob(b'{"\xff\xfe":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', d8), "byte order mark": blob("\ufeff" + one(), d8),
        "trailing comma": blob(one()[:-1] + ",}", d8), "trailing garbage": blob(one() + "x", d8), "nul padding": blob(one() + "\0\0", d8), "newline padding": blob(one() + "\n\n", d8),
        "truncated data": blob(one(), bytes(7)), "extra data": blob(one(), bytes(9)), "no data": blob(one()),
        "no dtype": blob(one(dtype=...), d8), "no shape": blob(one(shape=...), d8), "no offsets": blob(one(data_offsets=...), d8),
        "unknown dtype": blob(one(dtype="F33"), d8), "dtype in lower case": blob(one(dtype="f32"), d8), "dtype a number": blob(one(dtype=3), d8), "dtype null": blob(one(dtype=None), d8),
        "dtype __proto__": blob(one(dtype="__proto__"), d8), "dtype constructor": blob(one(dtype="constructor"), d8),
        "shape too large": blob(one(shape=[3]), d8), "shape too small": blob(one(shape=[1]), d8), "shape negative": blob(one(shape=[-2]), d8), "shape two negatives": blob(one(shape=[-1, -2]), d8),
        "shape a fraction": blob(one(shape=[2.0]), d8), "shape a string": blob(one(shape=["2"]), d8), "shape not a list": blob(one(shape=2), d8), "shape null": blob(one(shape=None), d8), "shape nested": blob(one(shape=[[2]]), d8),
        "shape overflows": blob(one(shape=[2 ** 32, 2 ** 32]), d8), "shape overflows to 8 bytes": blob(one(shape=[2 ** 62 + 2], dtype="F32"), d8), "shape with zero": blob(one(shape=[0], data_offsets=[0, 0])), "zero times huge": blob(one(shape=[0, 2 ** 62], data_offsets=[0, 0])),
        "many zero sizes": blob(one(shape=[0] * 100, data_offsets=[0, 0])), "scalar": blob(one(shape=[], data_offsets=[0, 4]), bytes(4)),
        "offsets reversed": blob(one(data_offsets=[8, 0]), d8), "offsets negative": blob(one(data_offsets=[-8, 0]), d8), "offsets one": blob(one(data_offsets=[0]), d8), "offsets three": blob(one(data_offsets=[0, 8, 9]), d8),
        "offsets fractions": blob(one(data_offsets=[0.0, 8.0]), d8), "offsets strings": blob(one(data_offsets=["0", "8"]), d8), "offsets beyond": blob(one(data_offsets=[8, 16]), d8), "offsets 2^53+1": blob(one(data_offsets=[2 ** 53 + 1, 2 ** 53 + 9]), d8), "offsets 2^64-8": blob(one(data_offsets=[2 ** 64 - 8, 2 ** 64]), d8),
        "begin after hole": blob(one(data_offsets=[1, 9]), bytes(9)), "two good": blob(two([0, 4], [4, 8]), d8), "two swapped": blob(two([4, 8], [0, 4]), d8), "overlap": blob(two([0, 5], [4, 8]), d8), "same place": blob(two([0, 8], [0, 8]), d8), "hole": blob(two([0, 3], [4, 8]), d8), "uncovered end": blob(two([0, 4], [4, 7]), d8),
        "empty tensor between": blob(two([0, 4], [4, 4]), bytes(4)), "empty tensor inside": blob(two([0, 4], [2, 2]), bytes(4)), "empty tensor at start of other": blob(two([0, 4], [0, 0]), bytes(4)),
        "duplicate name": blob('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(4)), "duplicate field": blob('{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(4)), "duplicate metadata": blob('{"__metadata__":{},"__metadata__":{},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(4)),
        "metadata": blob('{"__metadata__":{"format":"pt"}}'), "metadata a number": blob('{"__metadata__":{"format":1}}'), "metadata nested": blob('{"__metadata__":{"a":{}}}'), "metadata a list": blob('{"__metadata__":[]}'), "metadata null": blob('{"__metadata__":null}'),
        "unknown field": blob(one(extra=1), d8), "entry null": blob('{"a":null}'), "entry a list": blob('{"a":[]}'), "name empty": blob('{"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), "name __proto__": blob('{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), "name with dots": blob('{"../../etc/passwd":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
        "name with nul": blob('{"a\\u0000b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), "lone surrogate": blob('{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
        "deeply nested": blob('{"a":' + "[" * 100000 + "]" * 100000 + "}"), "number huge": blob('{"a":{"dtype":"U8","shape":[1e400],"data_offsets":[0,1]}}', b"x"), "number minus zero": blob('{"a":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}}', b"x"), "leading zero": blob('{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}', b"x"), "NaN": blob('{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', b"x"), "comment": blob('{/**/}'),
        "F4 pair": blob(one(dtype="F4", shape=[2], data_offsets=[0, 1]), b"x"), "F4 odd": blob(one(dtype="F4", shape=[3], data_offsets=[0, 2]), b"xy"), "F6 four": blob(one(dtype="F6_E2M3", shape=[4], data_offsets=[0, 3]), b"xyz"),
    }
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = os.path.join(folder, "x.safetensors")
            with open(path, "wb") as f:
                f.write(data)
            try:
                with safe_open(path, "pt") as f:
                    f.keys()
                accepted, why = True, ""
            except BaseException as error:
                accepted, why = False, str(error)[:90]
            if name == "deeply nested":
                verdicts.append({"name": name, "repeat": 100000, "accepted": accepted, "why": why})
            else:
                verdicts.append({"name": name, "base64": __import__("base64").b64encode(data).decode(), "accepted": accepted, "why": why})
    return verdicts


def shards(sizes, limit):
    state = {name: torch.zeros(n, dtype=torch.uint8) for name, n in sizes}
    split = split_torch_state_dict_into_shards(state, filename_pattern="model{suffix}.safetensors", max_shard_size=limit)
    index = None
    if split.is_sharded:
        index = json.dumps({"metadata": {"total_parameters": sum(n for _, n in sizes), **split.metadata}, "weight_map": split.tensor_to_filename}, indent=2, sort_keys=True) + "\n"
    return {"sizes": sizes, "limit": limit, "files": split.filename_to_tensors, "index": index}


SHARDS = [
    shards([["a", 6000], ["b", 6000], ["c", 2000], ["d", 6000], ["e", 2000], ["f", 2000]], "10KB"),
    shards([["a", 6000], ["b", 60000], ["c", 2000]], "10KB"),
    shards([["a", 60000], ["b", 1], ["c", 60000]], 10000),
    shards([["a", 5000], ["b", 5000], ["c", 1]], "10KB"),
    shards([["a", 5], ["b", 5]], "5GB"),
    shards([["model.layers.10.w", 900], ["model.layers.9.w", 900], ["lm_head.\u00e9\U0001f600", 10], ["\uffee", 10]], "1KB"),
]

with open(os.path.join(HERE, "recorded.json"), "w") as f:
    json.dump({"safetensors": safetensors.__version__, "written": WRITTEN, "hostile": hostile(), "shards": SHARDS}, f, indent=1)
