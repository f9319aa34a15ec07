"""Records what transformers computes for tiny random encoders, for tests/models/encoders.test.ts.

python record_encoders.py        (torch 2.13 CPU, transformers 5.18; fixed seeds; float32, eager attention)

Each folder written is a Hugging Face model directory plus expected.json:
  { inputIds, tokenTypeIds?, labels, logits, loss, gradientNorms, adamwLosses }, for classifiers { problems: name -> { labels, loss, gradientNorms, adamwLosses } }.
The batch is ragged: sequences of different lengths, padded on the right for transformers and given unpadded here.
"""
import json
import shutil

import torch
import transformers
from transformers import (
    AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification, BertConfig, BertForMaskedLM, BertForSequenceClassification,
    BertForTokenClassification, RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification,
)

from record import LENGTHS, here, number, numbers, pad, randomise

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

SPECIAL = 5


def sequences_of(vocabulary, seed):
    generator = torch.Generator().manual_seed(seed)
    # Not the pad token: torch gives its embedding row no gradient.
    return [torch.randint(SPECIAL, vocabulary, (n,), generator=generator) for n in LENGTHS]


def masked_labels(sequences, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.where(torch.rand(s.shape, generator=generator) < 0.3, s, torch.tensor(-100)) for s in sequences]
    inputs = [torch.where(l == -100, s, torch.tensor(4)) for s, l in zip(sequences, labels)]
    return inputs, labels


def types_of(sequences):
    return [(torch.arange(len(s)) >= len(s) // 2).long() for s in sequences]


def train(load, inputs):
    model = load()
    out = model(**inputs)
    out.loss.backward()
    norms = {n: number(p.grad.double().norm()) for n, p in model.named_parameters() if p.grad is not None}
    trained = load()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3, weight_decay=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = trained(**inputs).loss
        losses.append(number(loss))
        loss.backward()
        optimizer.step()
    return {"loss": number(out.loss), "gradientNorms": norms, "adamwLosses": losses}


def write(folder, expected):
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    text = json.dumps({"transformers": transformers.__version__, "torch": torch.__version__, **expected}, separators=(",", ":"))
    (folder / "expected.json").write_text(text + "\n")
    print(folder.name, sum(f.stat().st_size for f in folder.iterdir()) // 1000, "kB")


def prepare(name, model, seed):
    folder = here / name
    shutil.rmtree(folder, ignore_errors=True)
    randomise(model, seed)
    model.save_pretrained(folder)
    return folder


def layout(sequences, pad_id, types=None):
    inputs = {"input_ids": pad(sequences, pad_id), "attention_mask": pad([torch.ones_like(s) for s in sequences], 0)}
    return {**inputs, "token_type_ids": pad(types, 0)} if types else inputs


def masked(name, model, seed, types):
    folder = prepare(name, model, seed)
    sequences, labels = masked_labels(sequences_of(model.config.vocab_size, seed + 1), seed + 2)
    token_types = types_of(sequences) if types else None
    inputs = {**layout(sequences, model.config.pad_token_id, token_types), "labels": pad(labels, -100)}
    load = lambda: AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
    out = load()(**inputs, output_hidden_states=True, output_attentions=True)
    base = AutoModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False).eval()
    places = [[0, 0], [0, 12], [1, 10], [1, 19], [2, 6]]
    write(folder, {
        "inputIds": [s.tolist() for s in sequences], **({"tokenTypeIds": [t.tolist() for t in token_types]} if types else {}), "labels": [l.tolist() for l in labels],
        "logits": [{"sequence": s, "position": p, "values": numbers(out.logits[s, p])} for s, p in places],
        "hiddenStates": [numbers(h[1, 19]) for h in out.hidden_states], "attentions": [numbers(a[1, -1, 19]) for a in out.attentions],
        "lastHiddenState": numbers(base(**{k: v for k, v in inputs.items() if k != "labels"}).last_hidden_state[1, 3]),
        **train(load, inputs),
    })


def classifier(name, model, seed, types, problems):
    folder = prepare(name, model, seed)
    sequences = sequences_of(model.config.vocab_size, seed + 1)
    token_types = types_of(sequences) if types else None
    inputs = layout(sequences, model.config.pad_token_id, token_types)
    recorded = {}
    for problem, labels in problems.items():
        def load():
            loaded = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
            loaded.config.problem_type = problem
            return loaded
        recorded[problem] = {"labels": labels.tolist(), **train(load, {**inputs, "labels": labels})}
    logits = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()(**inputs).logits
    write(folder, {
        "inputIds": [s.tolist() for s in sequences], **({"tokenTypeIds": [t.tolist() for t in token_types]} if types else {}),
        "logits": [numbers(row) for row in logits], "problems": recorded,
    })


def token_classifier(name, model, seed):
    folder = prepare(name, model, seed)
    sequences = sequences_of(model.config.vocab_size, seed + 1)
    loaded = AutoModelForTokenClassification.from_pretrained(folder, attn_implementation="eager").eval()
    logits = loaded(**layout(sequences, model.config.pad_token_id)).logits
    write(folder, {"inputIds": [s.tolist() for s in sequences], "logits": [numbers(logits[i, t]) for i, s in enumerate(sequences) for t in range(len(s))]})


def fill_mask(name):
    """A WordPiece tokenizer of 96 tokens beside the model, and what the fill-mask pipeline says."""
    folder = here / name
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["the", "cat", "sat", "on", "mat", "is", "of", "and", "dog", "ran", "sun", "moon", "red", "blue", "old", "new", "house", "tree", "bird", "fish", "sings", "sleeps",
             "over", "under", "big", "small", "##s", "##ing", "##ed", ".", ",", "?", "!"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *[f"##{c}" for c in letters], *words][:96]
    tokenizer = transformers.BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    pipeline = transformers.pipeline("fill-mask", model=str(folder), tokenizer=str(folder), top_k=4)
    texts = ["The cat [MASK] on the mat.", "the [MASK] and the [MASK] sing!"]
    answers = [pipeline(text) for text in texts]
    (folder / "fillMask.json").write_text(json.dumps([
        {"text": text, "ids": tokenizer(text)["input_ids"], "masks": answer if isinstance(answer[0], list) else [answer]} for text, answer in zip(texts, answers)
    ], separators=(",", ":")) + "\n")


def main():
    small = dict(vocab_size=96, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4)
    bert = BertConfig(**small, max_position_embeddings=24, type_vocab_size=2)
    roberta = RobertaConfig(**small, max_position_embeddings=26, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    masked("bert", BertForMaskedLM(bert), 110, types=True)
    fill_mask("bert")
    masked("roberta", RobertaForMaskedLM(roberta), 120, types=False)
    three = dict(num_hidden_layers=1, num_labels=3)
    problems = {
        "single_label_classification": torch.tensor([2, 0, 1]),
        "multi_label_classification": torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]),
        "regression": torch.tensor([[0.5, -1.0, 2.0], [0.25, 0.0, 1.5], [-2.0, 3.0, 0.125]]),
    }
    classifier("bert-classifier", BertForSequenceClassification(BertConfig(**{**bert.to_dict(), **three})), 130, True, problems)
    classifier("roberta-classifier", RobertaForSequenceClassification(RobertaConfig(**{**roberta.to_dict(), **three})), 140, False,
               {"single_label_classification": problems["single_label_classification"]})
    token_classifier("bert-tokens", BertForTokenClassification(BertConfig(**{**bert.to_dict(), **three})), 150)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
