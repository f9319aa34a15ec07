"""The steps of bench/steps/*.ts in PyTorch, transformers and PEFT. Usage: steps.py NAME, and the options of timing.py."""
import time

import torch
from transformers.generation.streamers import BaseStreamer

from models import build, start
from timing import arguments, report

options = arguments()
start(options)


def compiled(model):
    return torch.compile(model) if options.compile else model


def updating(optimizer, loss, clipped=None):
    """A step that computes loss() and updates; `clipped` are the parameters whose gradients' norm is bound."""
    clipped = None if clipped is None else list(clipped)

    def step():
        loss().backward()
        if clipped:
            torch.nn.utils.clip_grad_norm_(clipped, 1.0)
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


def adapted(dtype):
    """The model with LoRA on every linear layer."""
    import peft
    linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=linears)
    # Adapters in bfloat16, too: quicker in PyTorch than PEFT's default of float32 under autocast.
    return peft.get_peft_model(build("qwen", dtype), config, autocast_adapter_dtype=False).train()


def lora(dtype):
    model = adapted(dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    run = compiled(model)
    ids = torch.randint(0, model.config.vocab_size, (1, 512))
    return updating(optimizer, lambda: run(input_ids=ids, labels=ids).loss, parameters)


def fine_tuning(dtype):
    """Rows of different lengths, padded to the longest as TRL's collator does; the answers are learnt."""
    lengths = [256, 64, 192, 96, 128, 224, 160, 80]
    model = build("gpt2").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(0, model.config.vocab_size, (length,))
        mask[row, :length] = 1
        labels[row, length // 2:length] = ids[row, length // 2:length]

    def loss():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            return model(input_ids=ids, attention_mask=mask, labels=labels).loss

    return updating(optimizer, loss, model.parameters())


def dpo(dtype):
    """TRL's DPOTrainer: chosen and rejected in one forward pass, selected log-probabilities, the model without its adapter as the reference."""
    from trl.trainer.utils import selective_log_softmax
    model = adapted(dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    prompt = torch.randint(0, model.config.vocab_size, (1, 128)).expand(2, 128)
    ids = torch.cat((prompt, torch.randint(0, model.config.vocab_size, (2, 128))), 1)
    mask = torch.ones_like(ids)

    def logps():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        return selective_log_softmax(logits, ids[:, 1:])[:, 127:].sum(1)

    def loss():
        chosen, rejected = logps()
        with torch.no_grad(), model.disable_adapter():
            reference_chosen, reference_rejected = logps()
        return -torch.nn.functional.logsigmoid(0.1 * ((chosen - reference_chosen) - (rejected - reference_rejected)))

    return updating(optimizer, loss, parameters)


def prefill(dtype):
    model = build("qwen", dtype, use_cache=True).eval()
    run = compiled(model)
    ids = torch.randint(0, model.config.vocab_size, (1, 512))

    def step():
        with torch.inference_mode():
            run(ids, logits_to_keep=1)
    return step


class Clock(BaseStreamer):
    """When generate() had its first token."""
    def put(self, value):
        self.puts += 1
        if self.puts == 2:
            self.first = time.perf_counter()

    def end(self):
        pass


def decode(dtype):
    """What generate() takes for a token after a prompt of 128 and a first one, of 16."""
    model = build("qwen", dtype, use_cache=True).eval()
    ids = torch.randint(0, model.config.vocab_size, (1, 128))
    mask = torch.ones_like(ids)
    clock = Clock()

    def step():
        clock.puts = 0
        with torch.inference_mode():
            model.generate(ids, attention_mask=mask, max_new_tokens=17, min_new_tokens=17, do_sample=False, pad_token_id=0, eos_token_id=None, streamer=clock)
        return (time.perf_counter() - clock.first) / 16
    return step


parts = options.name.split("-")
if parts[:2] == ["qwen", "decode"]:
    report(decode(parts[2]), options)
elif parts[:2] == ["qwen", "prefill"]:
    report(prefill(parts[2]), options)
elif parts[1] in ("lora", "sft", "dpo"):
    report({"lora": lora, "sft": fine_tuning, "dpo": dpo}[parts[1]](parts[2]), options)
else:
    report(training(parts[0], parts[1], *((8, 64) if parts[0] == "tiny" else (4, 256))), options)
