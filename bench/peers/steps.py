"""The steps of bench/steps/{pretrain,adapters,generation}.ts in PyTorch, transformers and PEFT. Usage: steps.py NAME, and the options of timing.py."""
import torch

from models import build, start
from timing import arguments, report, report_difference

options = arguments()
start(options)


def compiled(model):
    return torch.compile(model) if options.compile else model


def updating(optimizer, loss):
    """A step that computes loss() and updates."""
    def step():
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def training(shape, dtype, batch, length):
    model = build(shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    run = compiled(model)
    ids = torch.randint(0, model.config.vocab_size, (batch, length))

    def loss():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return run(input_ids=ids, labels=ids).loss

    return updating(optimizer, loss)


def lora(dtype):
    import peft
    linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=linears)
    # Adapters in bfloat16, too: quicker in PyTorch than PEFT's default of float32 under autocast.
    model = peft.get_peft_model(build("qwen", dtype), config, autocast_adapter_dtype=False).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    run = compiled(model)
    ids = torch.randint(0, model.config.vocab_size, (1, 512))
    return updating(optimizer, lambda: run(input_ids=ids, labels=ids).loss)


def prefill(dtype):
    model = build("qwen", dtype, use_cache=True).eval()
    run = compiled(model)
    ids = torch.randint(0, model.config.vocab_size, (1, 512))

    def step():
        with torch.inference_mode():
            run(ids, logits_to_keep=1)
    return step


def decode(dtype):
    """What generate() takes for a token after a prompt of 128: of 17 tokens, less the prompt and the first."""
    model = build("qwen", dtype, use_cache=True).eval()
    ids = torch.randint(0, model.config.vocab_size, (1, 128))
    mask = torch.ones_like(ids)

    def tokens(count):
        with torch.inference_mode():
            model.generate(ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None)
    return tokens


parts = options.name.split("-")
if parts[:2] == ["qwen", "decode"]:
    report_difference(decode(parts[2]), 1, 17, options)
elif parts[:2] == ["qwen", "prefill"]:
    report(prefill(parts[2]), options)
elif parts[:2] == ["qwen", "lora"]:
    report(lora(parts[2]), options)
else:
    report(training(parts[0], parts[1], *((8, 64) if parts[0] == "tiny" else (4, 256))), options)
