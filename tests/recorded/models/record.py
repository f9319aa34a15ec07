"""Records what transformers computes for tiny random models of each family, for tests/models.

python record.py        (torch 2.13 CPU, transformers 5.18; fixed seeds; float32, eager attention)

Each folder written is a Hugging Face model directory plus expected.json:
  variants: name -> { config: overrides of config.json, inputIds, labels, logits, loss, gradientNorms, adamwLosses, prompt, greedy, ... }
The batch is ragged: sequences of different lengths, padded on the right for transformers and given unpadded here.
"""
import json
import math
import shutil
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

here = Path(__file__).parent
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

LENGTHS = [13, 20, 7]
GREEDY = 32


def number(x):
    x = x.item() if isinstance(x, torch.Tensor) else float(x)
    return x if x == 0 or not math.isfinite(x) else float(f"{x:.8g}")


def numbers(tensor):
    return [number(v) for v in tensor.detach().double().flatten().tolist()]


def randomise(model, seed):
    """Larger weights than training starts from, so that every part of the model shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name or "ln_" in name:
                # Gemma adds 1 to the weight itself.
                ones = name.endswith("weight") and model.config.model_type != "gemma3_text"
                parameter.copy_(noise * 0.1 + (1 if ones else 0))
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.1)
            else:
                parameter.copy_(noise * 0.2)


def batch(vocabulary, seed):
    generator = torch.Generator().manual_seed(seed)
    # Not the pad token 0: torch gives its embedding row no gradient.
    sequences = [torch.randint(3, vocabulary, (n,), generator=generator) for n in LENGTHS]
    labels = [s.clone() for s in sequences]
    labels[0][:4] = -100
    labels[1][9] = -100
    return sequences, labels


def pad(sequences, value):
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)


def load(folder, overrides):
    config = transformers.AutoConfig.from_pretrained(folder)
    if overrides:
        merged = {**json.loads((folder / "config.json").read_text()), **overrides}
        config = type(config).from_dict(merged)
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="eager").eval()


def measure(folder, overrides, seed, outputs=False):
    model = load(folder, overrides)
    sequences, labels = batch(model.config.vocab_size, seed)
    inputs = {
        "input_ids": pad(sequences, 0),
        "attention_mask": pad([torch.ones_like(s) for s in sequences], 0),
        "labels": pad(labels, -100),
    }
    out = model(**inputs, output_hidden_states=outputs, output_attentions=outputs)
    places = [[0, 0], [0, 12], [1, 10], [1, 19], [2, 6]]
    result = {
        "config": overrides,
        "inputIds": [s.tolist() for s in sequences],
        "labels": [s.tolist() for s in labels],
        "logits": [{"sequence": s, "position": p, "values": numbers(out.logits[s, p])} for s, p in places],
        "loss": number(out.loss),
    }
    out.loss.backward()
    result["gradientNorms"] = {n: number(p.grad.double().norm()) for n, p in model.named_parameters()}
    if outputs:
        result["hiddenStates"] = [numbers(h[1, 19]) for h in out.hidden_states]
        result["attentions"] = [numbers(a[1, -1, 19]) for a in out.attentions]

    trained = load(folder, overrides)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3, weight_decay=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = trained(**inputs).loss
        losses.append(number(loss))
        loss.backward()
        optimizer.step()
    result["adamwLosses"] = losses

    model = load(folder, overrides)
    for start in range(50):
        prompt = torch.randint(3, model.config.vocab_size, (5,), generator=torch.Generator().manual_seed(seed + start))
        steps = model.generate(
            prompt[None], attention_mask=torch.ones(1, 5, dtype=torch.long), do_sample=False, max_new_tokens=GREEDY,
            eos_token_id=None, pad_token_id=0, use_cache=True, return_dict_in_generate=True, output_logits=True,
        )
        tokens = steps.sequences[0, 5:].tolist()
        top = torch.stack([l[0].topk(2).values for l in steps.logits])
        gap = (top[:, 0] - top[:, 1]).min().item()
        if gap > 2e-3 and len(tokens) == GREEDY:
            break
    else:
        raise SystemExit(f"{folder.name}: no prompt whose greedy tokens are clear of ties")
    result["prompt"] = prompt.tolist()
    result["greedy"] = tokens
    result["greedyLeastGap"] = number(gap)
    return result


def save(name, config, seed, dtype=torch.float32, variants=None, outputs=False, shard_size="50GB"):
    folder = here / name
    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(config)
    randomise(model, seed)
    model.generation_config.max_new_tokens = 24
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    recorded = {
        variant: measure(folder, overrides, seed + 1, outputs)
        for variant, overrides in (variants or {"default": {}}).items()
    }
    text = json.dumps({"transformers": transformers.__version__, "torch": torch.__version__, "variants": recorded}, separators=(",", ":"))
    (folder / "expected.json").write_text(text + "\n")
    weights = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:16} {weights / 1000:6.0f} kB  " + "  ".join(f"{k} loss {v['loss']:.4f} gap {v['greedyLeastGap']:.4f}" for k, v in recorded.items()))


def models():
    ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    save("gpt2", GPT2Config(
        vocab_size=163, n_positions=40, n_embd=40, n_layer=2, n_head=5, n_inner=72, bos_token_id=1, eos_token_id=2), 10, outputs=True)
    small = dict(vocab_size=160, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, **ids)
    save("llama2", LlamaConfig(**small, max_position_embeddings=64, rms_norm_eps=1e-5), 20, outputs=True)
    save("llama3", LlamaConfig(
        **{**small, "hidden_size": 48, "intermediate_size": 88, "num_attention_heads": 3, "num_key_value_heads": 1, "eos_token_id": [2, 3]},
        max_position_embeddings=64, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=32)), 30, dtype=torch.bfloat16, shard_size="40KB")
    save("llama-rope", LlamaConfig(
        **small, max_position_embeddings=16, attention_bias=True, mlp_bias=True), 40, dtype=torch.bfloat16, variants={
            "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}},
            "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
            "yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16},
                     "max_position_embeddings": 64},
            "longrope": {"rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0],
                "original_max_position_embeddings": 16}, "max_position_embeddings": 64},
        })
    save("qwen2", Qwen2Config(
        **{**small, "vocab_size": 171, "hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 1}, max_position_embeddings=64,
        tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), 50, variants={
            "default": {},
            "window": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "layer_types": None},
        })
    save("qwen3", Qwen3Config(
        **{**small, "hidden_size": 36, "intermediate_size": 50, "head_dim": 16}, max_position_embeddings=64,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), 60, dtype=torch.bfloat16)
    save("gemma3", Gemma3TextConfig(
        **{**small, "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 3}, head_dim=16, max_position_embeddings=64, query_pre_attn_scalar=12,
        sliding_window=6, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters=dict(full_attention=dict(rope_type="linear", rope_theta=1000000.0, factor=8.0),
                             sliding_attention=dict(rope_type="default", rope_theta=10000.0))), 80, dtype=torch.bfloat16, outputs=True)
    save("mistral", MistralConfig(**{**small, "intermediate_size": 53}, max_position_embeddings=64, sliding_window=6), 70)


def rope():
    """Inverse frequencies and attention factors of modeling_rope_utils for real and odd settings."""
    llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
    cases = [
        dict(head_dim=64, rope_type="default", rope_theta=10000.0),
        dict(head_dim=128, rope_type="default", rope_theta=1000000.0),
        dict(head_dim=128, rope_type="linear", rope_theta=10000.0, factor=4.0),
        dict(head_dim=64, rope_type="linear", rope_theta=10000.0, factor=3.7, partial_rotary_factor=0.5),
        dict(head_dim=128, rope_type="dynamic", rope_theta=10000.0, factor=2.0, max=2048),
        dict(head_dim=128, rope_type="dynamic", rope_theta=10000.0, factor=2.0, max=2048, length=5000),
        dict(head_dim=80, rope_type="dynamic", rope_theta=10000.0, factor=3.0, max=2048, length=2049, partial_rotary_factor=0.4),
        dict(head_dim=128, rope_type="yarn", rope_theta=1000000.0, factor=4.0, original_max_position_embeddings=32768, max=131072),
        dict(head_dim=64, rope_type="yarn", rope_theta=10000.0, factor=40.0, original_max_position_embeddings=4096, max=163840,
             beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0),
        dict(head_dim=64, rope_type="yarn", rope_theta=10000.0, factor=40.0, original_max_position_embeddings=4096, max=163840,
             mscale=0.707, mscale_all_dim=0.5),
        dict(head_dim=64, rope_type="yarn", rope_theta=150000.0, factor=32.0, original_max_position_embeddings=4096, max=131072, truncate=False),
        dict(head_dim=64, rope_type="yarn", rope_theta=10000.0, factor=2.0, original_max_position_embeddings=2048, max=4096,
             attention_factor=1.5, beta_fast=16, beta_slow=2, partial_rotary_factor=0.5),
        dict(head_dim=128, rope_type="llama3", rope_theta=500000.0, max=131072, **llama3),
        dict(head_dim=64, rope_type="llama3", rope_theta=500000.0, max=131072, **{**llama3, "factor": 32.0}),
        dict(head_dim=16, rope_type="longrope", rope_theta=10000.0, short_factor=[1.0 + 0.05 * i for i in range(8)],
             long_factor=[1.0 + 0.5 * i for i in range(8)], original_max_position_embeddings=4096, max=131072),
        dict(head_dim=16, rope_type="longrope", rope_theta=10000.0, short_factor=[1.0 + 0.05 * i for i in range(8)],
             long_factor=[1.0 + 0.5 * i for i in range(8)], original_max_position_embeddings=4096, max=131072, length=4097),
    ]
    recorded = []
    for case in cases:
        parameters = {k: v for k, v in case.items() if k not in ("head_dim", "max", "length")}
        config = LlamaConfig(hidden_size=case["head_dim"] * 4, num_attention_heads=4, head_dim=case["head_dim"],
                             max_position_embeddings=case.get("max", 4096), rope_parameters=dict(parameters))
        compute = ROPE_INIT_FUNCTIONS.get(case["rope_type"], LlamaRotaryEmbedding.compute_default_rope_parameters)
        frequencies, factor = compute(config, "cpu", seq_len=case.get("length"))
        recorded.append({
            "headDim": case["head_dim"], "maxPositionEmbeddings": case.get("max", 4096), "length": case.get("length"), "rope": parameters,
            "inverseFrequencies": numbers(frequencies), "attentionFactor": number(factor),
        })
    embedding = LlamaRotaryEmbedding(LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=4096))
    positions = [0, 1, 7, 100, 4095]
    cos, sin = embedding(torch.zeros(1), torch.tensor([positions]))
    table = {"positions": positions, "cos": numbers(cos[0, :, :32]), "sin": numbers(sin[0, :, :32])}
    (here / "rope.json").write_text(json.dumps({"cases": recorded, "table": table}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    rope()
    models()
