"""The steps of bench/steps/reinforcement.ts in TRL, transformers and PyTorch. Usage: reinforcement.py NAME, and the options of timing.py."""
import copy
import json
import os
import random
import statistics
import tempfile
import threading
import time
import warnings

import torch
import transformers

from timing import arguments, measure, report

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
options = arguments("--update")
torch.set_num_threads(options.threads)
torch.manual_seed(0)

PROMPT = "the quick brown fox"
PROMPT_TOKENS, ANSWERS, NEW_TOKENS = 4, 8, 64


def build_tokenizer():
    import tokenizers
    random.seed(0)
    words = lambda: " ".join("".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 7))) for _ in range(3))
    corpus = [f"{PROMPT} jumps over the lazy dog {words()}" for _ in range(400)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus, tokenizers.trainers.BpeTrainer(vocab_size=512, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def build_model():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
        pad_token_id=0, eos_token_id=1, bos_token_id=1))


def trainer_arguments():
    return dict(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=ANSWERS, max_steps=1_000_000, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
                disable_tqdm=True, gradient_checkpointing=False)


def trainer_step(trainer):
    """Trains in a thread that waits after each step; returns what lets it make one."""
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    class Gate(transformers.TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            done.release()
            go.acquire()

    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Gate())
    threading.Thread(target=trainer.train, daemon=True).start()
    done.acquire()

    def step():
        go.release()
        done.acquire()
    return step


def grpo():
    import datasets
    import trl
    reward = lambda completions, **_: [len(set(one)) / 10 for one in completions]
    config = trl.GRPOConfig(num_generations=ANSWERS, max_completion_length=NEW_TOKENS, beta=0.0, generation_kwargs={"min_new_tokens": NEW_TOKENS}, **trainer_arguments())
    prompts = datasets.Dataset.from_dict({"prompt": [PROMPT] * 256})
    trainer = trl.GRPOTrainer(model=build_model(), reward_funcs=reward, args=config, train_dataset=prompts, processing_class=build_tokenizer())
    generating = []
    original = trainer._generate_and_score_completions

    def generate(*args, **kwargs):
        begin = time.perf_counter()
        result = original(*args, **kwargs)
        generating.append(time.perf_counter() - begin)
        return result

    trainer._generate_and_score_completions = generate
    step = trainer_step(trainer)

    def update():
        """What a step spends on anything but generating and scoring."""
        generating.clear()
        begin = time.perf_counter()
        step()
        return time.perf_counter() - begin - sum(generating)

    report(update if options.update else step, options)


def rollout():
    model = build_model().eval()
    ids = torch.randint(2, 512, (1, PROMPT_TOKENS)).repeat(ANSWERS, 1)
    mask = torch.ones_like(ids)

    @torch.inference_mode()
    def step():
        model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=True, pad_token_id=0)

    report(step, options)


def update():
    model = build_model().train()
    ids = torch.randint(2, 512, (ANSWERS, PROMPT_TOKENS + NEW_TOKENS))
    advantages = torch.arange(ANSWERS, dtype=torch.float32)[:, None] - (ANSWERS - 1) / 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step():
        logits = model(input_ids=ids, use_cache=False).logits[:, PROMPT_TOKENS - 1:-1]
        logps = torch.log_softmax(logits, -1).gather(-1, ids[:, PROMPT_TOKENS:, None]).squeeze(-1)
        (-(torch.exp(logps - logps.detach()) * advantages).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    report(step, options)


def dpo():
    import datasets
    import trl
    rows = [{"prompt": PROMPT, "chosen": " jumps over the lazy dog" * (1 + i % 4), "rejected": " over jumps dog lazy the" * (1 + (i + 1) % 4)} for i in range(64)]
    model = build_model()
    trainer = trl.DPOTrainer(model=model, ref_model=copy.deepcopy(model), args=trl.DPOConfig(**trainer_arguments()), train_dataset=datasets.Dataset.from_list(rows), processing_class=build_tokenizer())
    report(trainer_step(trainer), options)


def group_advantages():
    """What GRPOTrainer computes of the rewards of 512 groups of 8, 256 times."""
    rewards = torch.rand(512 * 8)

    def once():
        grouped = rewards.view(-1, 8)
        mean, std = grouped.mean(dim=1).repeat_interleave(8), grouped.std(dim=1).repeat_interleave(8)
        return (rewards - mean) / (std + 1e-4)

    def step():
        for _ in range(256):
            once()

    report(step, options)


{"grpo-tiny": grpo, "grpo-tiny-rollout": rollout, "grpo-tiny-update": grpo if options.update else update, "dpo-tiny": dpo, "group-advantages": group_advantages}[options.name]()
# A trainer's thread still waits.
os._exit(0)
