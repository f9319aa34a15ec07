"""Records greedy answers of transformers under each option that bans or favours tokens, with the models of ../models, for tests/generate/controls.test.ts.

python record_controls.py        (torch 2.13 CPU, transformers 5.18; float32, eager attention)
"""
import json

import torch
import transformers
from transformers import LogitsProcessor

from record import CLEAR, greedy, here, load

FAMILIES = ["gpt2", "llama2", "qwen3"]
LENGTHS = [3, 9, 17, 1]


class Even(LogitsProcessor):
    """Only even ids, and 4 more for those that 6 divides."""

    def __call__(self, input_ids, scores):
        ids = torch.arange(scores.shape[-1])
        return torch.where(ids % 2 == 1, -torch.inf, scores + 4.0 * (ids % 6 == 0))


def options_of(prompt, plain):
    """Options that each change the plain answer, and some of them together."""
    return [
        {"bad_words_ids": [[plain[0]], [plain[2], plain[3]], [plain[4]]]},
        {"bad_words_ids": [[prompt[-1], plain[0]], [plain[1], plain[2], plain[3]], [plain[5]]], "eos_token_id": [plain[5]]},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"sequence_bias": [[[plain[0]], -3.0], [[plain[1], plain[2]], -5.0], [[7], 1.5], [[7], 2.5], [[9, 7], 0.75]]},
        {"sequence_bias": [[[plain[1]], 4.0], [[plain[1], plain[1]], -9.0]], "repetition_penalty": 1.4},
        {"forced_eos_token_id": 11},
        {"forced_eos_token_id": [30, 11], "suppress_tokens": [11, plain[0]], "min_new_tokens": 16, "eos_token_id": 30},
        {"sequence_bias": [[[plain[3]], 2.0], [[5, 6], -1.0]], "repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "bad_words_ids": [[plain[0]], [plain[1], plain[2]]],
         "min_new_tokens": 5, "eos_token_id": plain[1], "suppress_tokens": [plain[2]]},
    ]


def clear_case(model, options_at, seed, length, **more):
    """A prompt whose greedy answer has no ties and is changed by the options."""
    for draw in range(200):
        prompt = torch.randint(3, model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(10_000 * seed + draw)).tolist()
        plain, gap = greedy(model, prompt)
        if gap < CLEAR:
            continue
        options = options_at(prompt, plain)
        tokens, gap = greedy(model, prompt, **options, **more)
        # A single allowed token has an infinite distance.
        if gap >= CLEAR and tokens != plain:
            return {"prompt": prompt, "options": options, "tokens": tokens}
    raise SystemExit(f"no clear case: {seed}")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    recorded = {"transformers": transformers.__version__, "torch": torch.__version__, "families": {}}
    for number, family in enumerate(FAMILIES):
        model = load(family)
        count = len(options_of([0], list(range(16))))
        cases = [clear_case(model, lambda prompt, plain, i=i: options_of(prompt, plain)[i], 100 * number + i, LENGTHS[i % 4]) for i in range(count)]
        even = clear_case(model, lambda prompt, plain: {"repetition_penalty": 1.3, "suppress_tokens": [plain[0]]}, 100 * number + 50, 5, logits_processor=[Even()])
        recorded["families"][family] = {"cases": cases, "even": even}
    (here / "controls.json").write_text(json.dumps(recorded, separators=(",", ":")) + "\n")
