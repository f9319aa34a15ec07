"""The shapes of bench/steps/shapes.ts in transformers, with random weights."""
import os

import torch
import transformers

transformers.logging.set_verbosity_error()
no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
small = os.environ.get("ANNEAL_BENCH_SMALL") == "1"
gpt2 = {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4} if small else {}
qwen = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4} if small else {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
shapes = {
    "gpt2": lambda: transformers.GPT2Config(**gpt2, **no_dropout),
    "tiny": lambda: transformers.GPT2Config(vocab_size=512, n_positions=64, n_embd=128, n_layer=2, n_head=4, **no_dropout),
    "qwen": lambda: transformers.Qwen2Config(
        **qwen, num_key_value_heads=2, max_position_embeddings=32768, rope_theta=1e6, tie_word_embeddings=True, rms_norm_eps=1e-6),
}


def build(shape, dtype="float32", use_cache=False):
    """A model of a shape; dtype is a name."""
    model = transformers.AutoModelForCausalLM.from_config(shapes[shape](), attn_implementation="sdpa", dtype=getattr(torch, dtype))
    model.config.use_cache = use_cache
    return model


def start(options):
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
