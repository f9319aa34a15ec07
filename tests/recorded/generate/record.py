"""Records what transformers generates with the models of ../models, for tests/generate, and the sliding-window loss of its perplexity guide, for tests/eval.

python record.py        (torch 2.13 CPU, transformers 5.18; float32, eager attention)
"""
import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

here = Path(__file__).parent
models = here.parent / "models"
torch.set_num_threads(1)
FAMILIES = ["gpt2", "llama2", "llama3", "qwen2", "qwen3", "mistral"]
CLEAR = 2e-3  # the least distance between the two best scores at every step


def load(family):
    return AutoModelForCausalLM.from_pretrained(models / family, dtype=torch.float32, attn_implementation="eager").eval()


def greedy(model, prompt, **options):
    """The new tokens, and the least gap between the best two scores after all processors."""
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, use_cache=True,
                         pad_token_id=0, return_dict_in_generate=True, output_scores=True, **{"eos_token_id": None, "max_new_tokens": 16, **options})
    top = torch.stack([s[0].topk(2).values for s in out.scores])
    return out.sequences[0, len(prompt):].tolist(), (top[:, 0] - top[:, 1]).min().item()


def cases(model, seed):
    """Prompts of several lengths and options whose greedy answers are clear of ties."""
    result = []
    draw = 0
    while len(result) < 7:
        draw += 1
        length = [3, 9, 17, 1][len(result) % 4]
        prompt = torch.randint(3, model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(1000 * seed + draw)).tolist()
        plain, gap = greedy(model, prompt)
        if gap < CLEAR:
            continue
        options = [
            {}, {"repetition_penalty": 1.3}, {"eos_token_id": [plain[4]]}, {"eos_token_id": [plain[2], plain[0]], "min_new_tokens": 6},
            {"suppress_tokens": [plain[0], plain[3]]}, {"repetition_penalty": 0.7, "min_length": length + 4, "eos_token_id": plain[0]},
            {"max_length": length + 5, "max_new_tokens": None},
        ][len(result)]
        tokens, gap = greedy(model, prompt, **options)
        if gap < CLEAR:
            continue
        result.append({"prompt": prompt, "options": {k: v for k, v in options.items() if v is not None}, "tokens": tokens})
    return result


def distributions(model, prompt):
    """Probabilities of the first token after every processor, by token."""
    result = []
    for options in [
        dict(), dict(top_k=0), dict(temperature=0.6, top_k=12), dict(temperature=1.5, top_k=0, top_p=0.6), dict(top_k=0, min_p=0.2),
        dict(temperature=0.8, top_k=30, top_p=0.9, min_p=0.05, repetition_penalty=1.4),
    ]:
        out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=True, max_new_tokens=1,
                             eos_token_id=None, pad_token_id=0, return_dict_in_generate=True, output_scores=True, **options)
        probabilities = out.scores[0][0].double().softmax(-1)
        kept = probabilities.nonzero().flatten().tolist()
        result.append({"options": options, "tokens": kept, "probabilities": [float(f"{probabilities[i]:.7g}") for i in kept]})
    return result


def windows(model, length, max_length, stride):
    """https://huggingface.co/docs/transformers/perplexity, with the tokens of each window counted exactly."""
    ids = torch.randint(3, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(length))
    nll, count, correct, end_before = 0.0, 0, 0, 0
    for begin in range(0, length, stride):
        end = min(begin + max_length, length)
        targets = ids[:, begin:end].clone()
        targets[:, :-(end - end_before)] = -100
        with torch.no_grad():
            logits = model(ids[:, begin:end]).logits.double()[0, :-1]
        wanted = targets[0, 1:]
        counted = wanted != -100
        nll -= logits.log_softmax(-1)[counted].gather(1, wanted[counted, None]).sum().item()
        correct += (logits.argmax(-1) == wanted)[counted].sum().item()
        count += counted.sum().item()
        end_before = end
        if end == length:
            break
    return {"inputIds": ids[0].tolist(), "maxLength": max_length, "stride": stride, "nll": float(f"{nll:.9g}"), "tokens": count, "correct": correct}


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    recorded = {"transformers": transformers.__version__, "torch": torch.__version__, "families": {}}
    for number, family in enumerate(FAMILIES):
        model = load(family)
        recorded["families"][family] = {"cases": cases(model, number), "defaultLength": len(greedy(model, [5, 6, 7], max_new_tokens=model.generation_config.max_new_tokens)[0])}
    model = load("llama2")
    recorded["distributions"] = {"prompt": [9, 17, 33, 17], "cases": distributions(model, [9, 17, 33, 17])}
    recorded["windows"] = [windows(model, 61, 24, 8), windows(model, 61, 16, 15), windows(model, 20, 24, 12)]
    (here / "recorded.json").write_text(json.dumps(recorded, separators=(",", ":")) + "\n")
