"""Tiny random classifiers of transformers 5 and what they compute: torch 2.13, CPU, float64 logits of float32 weights.

    python record.py
"""
import json
import pathlib

import torch
import transformers as t

here = pathlib.Path(__file__).parent
sizes = dict(vocab_size=40, bos_token_id=0, eos_token_id=1, pad_token_id=2)
llama = lambda **more: t.LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32, **sizes, **more)
gpt2 = lambda **more: t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **sizes, **more)
models = {
    "llama-reward": (t.LlamaForSequenceClassification, llama(num_labels=1)),
    "llama-three": (t.LlamaForSequenceClassification, llama(id2label={0: "bad", 1: "fair", 2: "good"}, label2id={"bad": 0, "fair": 1, "good": 2})),
    "gpt2-reward": (t.GPT2ForSequenceClassification, gpt2(num_labels=1)),
    "llama-steps": (t.LlamaForTokenClassification, llama(num_labels=2)),
    "gpt2-steps": (t.GPT2ForTokenClassification, gpt2(num_labels=2)),
}
sequences = [[5, 9, 11, 30], [7], [12, 3, 3, 25, 39, 8]]
width = max(map(len, sequences))
padded = torch.tensor([s + [2] * (width - len(s)) for s in sequences])
mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences])
results = {"sequences": sequences, "logits": {}}
for name, (cls, config) in models.items():
    torch.manual_seed(7)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(here / name)
    with torch.no_grad():
        logits = model.double()(input_ids=padded, attention_mask=mask).logits
    results["logits"][name] = [row.tolist() if "steps" not in name else row[: len(s)].tolist() for row, s in zip(logits, sequences)]
(here / "logits.json").write_text(json.dumps(results))
