"""The steps of bench/steps.ts in PyTorch and transformers. Usage: steps.py NAME [--threads N] [--compile]
Prints one JSON line: median and best seconds, and the number of samples."""
import argparse
import json
import statistics
import time

import torch
import transformers

transformers.logging.set_verbosity_error()
parser = argparse.ArgumentParser()
parser.add_argument("name")
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--compile", action="store_true")
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)
torch.manual_seed(0)

no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
configs = {
    "gpt2": lambda: transformers.GPT2Config(**no_dropout),
    "tiny": lambda: transformers.GPT2Config(vocab_size=512, n_positions=64, n_embd=128, n_layer=2, n_head=4, **no_dropout),
    "qwen": lambda: transformers.Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        max_position_embeddings=32768, rope_theta=1e6, tie_word_embeddings=True, rms_norm_eps=1e-6),
}


def build(config, dtype):
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
    return model


def training(kind, dtype, batch, length):
    model = build(configs[kind](), torch.float32).train()
    model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    run = torch.compile(model) if arguments.compile else model
    ids = torch.randint(0, model.config.vocab_size, (batch, length))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def generation(kind, dtype):
    model = build(configs["qwen"](), getattr(torch, dtype)).eval()
    run = torch.compile(model) if arguments.compile else model
    prompt = 512 if kind == "prefill" else 128
    ids = torch.randint(0, model.config.vocab_size, (1, prompt))
    if kind == "prefill":
        def step():
            with torch.inference_mode():
                run(ids, logits_to_keep=1)
        return step
    with torch.inference_mode():
        cache = model(ids, use_cache=True).past_key_values

    def step():
        with torch.inference_mode():
            run(torch.tensor([[7]]), past_key_values=cache, use_cache=True)
            cache.crop(prompt)

    return step


parts = arguments.name.split("-")
if parts[0] == "qwen":
    step = generation(parts[1], parts[2])
else:
    step = training(parts[0], parts[1], *((8, 64) if parts[0] == "tiny" else (4, 256)))

for _ in range(2):
    step()
samples = []
end = time.perf_counter() + 6
while len(samples) < 5 or (time.perf_counter() < end and len(samples) < 2000):
    begin = time.perf_counter()
    step()
    samples.append(time.perf_counter() - begin)
print(json.dumps({"median": statistics.median(samples), "best": min(samples), "samples": len(samples)}))
