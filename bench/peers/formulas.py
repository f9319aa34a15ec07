"""The operations of tests/cases in PyTorch, as its users, transformers, PEFT and TRL write them.
A formula takes the inputs of a case, in order, and the options of its `peer`. An update is prepared with them and returns the call, which works in place."""
import torch
import torch.nn.functional as F

activations = {
    "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu, "relu": F.relu, "tanh": torch.tanh, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def cross_entropy(logits, labels, smoothing=0.0):
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def selective_log_softmax(logits, ids, temperature=1.0):
    """TRL's selective_log_softmax of logits over a temperature, without the entropy."""
    logits = logits / temperature
    ids = ids.clamp(min=0).unsqueeze(-1)
    if logits.dtype in (torch.float32, torch.float64):
        selected = torch.gather(logits, -1, ids).squeeze(-1)
        return selected - torch.stack([torch.logsumexp(row, -1) for row in logits.split(128)]).flatten()
    rows = []
    for part, chosen in zip(logits.split(128), ids.split(128)):
        rows.append(F.log_softmax(part, -1).gather(-1, chosen).squeeze(-1))
    return torch.cat(rows)


def attention(q, k, v, sequences, causal, p=0.0):
    def heads_first(x):
        tokens, heads, width = x.shape
        return x.view(sequences, tokens // sequences, heads, width).transpose(1, 2)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(heads_first(q), heads_first(k), heads_first(v), dropout_p=p, is_causal=causal, enable_gqa=grouped)


def rope(x, cos, sin, position):
    """transformers' apply_rotary_pos_emb."""
    cos, sin = (torch.cat((table[position], table[position]), -1).unsqueeze(1).to(x.dtype) for table in (cos, sin))
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def linear_divergence(hidden, weight, teacher_hidden, teacher_weight, labels, temperature, hard):
    """Soft labels with hard ones: KL(teacher | student) and cross-entropy."""
    logits = F.linear(hidden, weight)
    with torch.no_grad():
        teacher = F.log_softmax(F.linear(teacher_hidden, teacher_weight) / temperature, -1)
    divergence = F.kl_div(F.log_softmax(logits / temperature, -1), teacher, reduction="sum", log_target=True)
    return divergence + hard * F.cross_entropy(logits, labels, reduction="sum")


def policy_loss(logprob, advantages, old, reference, *, beta, sequences, length):
    """TRL's GRPO loss."""
    shape = (sequences, length)
    logprob, old, reference = logprob.view(shape), old.view(shape), reference.view(shape)
    ratio = torch.exp(logprob - old)
    loss = -torch.min(ratio * advantages.unsqueeze(1), torch.clamp(ratio, 0.8, 1.2) * advantages.unsqueeze(1))
    kl = torch.exp(reference - logprob) - (reference - logprob) - 1
    return (loss + beta * kl).mean()


def group_advantages(rewards, group):
    """TRL's GRPO."""
    grouped = rewards.view(-1, group)
    mean = grouped.mean(dim=1).repeat_interleave(group, dim=0)
    deviation = grouped.std(dim=1).repeat_interleave(group, dim=0)
    return (rewards - mean) / (deviation + 1e-4)


def gae(rewards, values, gamma, **options):
    """TRL's PPO."""
    last, reversed_advantages, length = 0, [], rewards.shape[1]
    for step in reversed(range(length)):
        following = values[:, step + 1] if step < length - 1 else 0.0
        last = rewards[:, step] + gamma * following - values[:, step] + gamma * options["lambda"] * last
        reversed_advantages.append(last)
    advantages = torch.stack(reversed_advantages[::-1], axis=1)
    return advantages, advantages + values


def sample(logits, draw, temperature, topK, topP):
    """transformers' greedy search, or its warpers and a draw."""
    if temperature == 0:
        return torch.argmax(logits, -1)
    logits = logits / temperature
    logits = logits.masked_fill(logits < torch.topk(logits, topK)[0][..., -1, None], -float("inf"))
    ordered, indices = torch.sort(logits, descending=False)
    removed = ordered.softmax(-1).cumsum(-1) <= 1 - topP
    removed[..., -1:] = False
    logits = logits.masked_fill(removed.scatter(1, indices, removed), -float("inf"))
    return torch.multinomial(logits.float().softmax(-1), 1)


def rms_norm(x, weight, eps):
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def layer_norm(x, weight, bias, eps):
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def residual(norm):
    def added(x, residual, *rest, eps):
        total = x + residual
        return norm(total, *rest, eps), total
    return added


def gemm(a, b, transposeA, transposeB):
    return torch.mm(a.t() if transposeA else a, b.t() if transposeB else b)


formulas = {
    "linear": lambda x, w: F.linear(x, w), "gemm": gemm, "lora_linear": lambda x, a, b, w, scale: F.linear(x, w) + F.linear(F.linear(x, a), b) * scale,
    "activation": lambda x, kind: activations[kind](x), "gated_activation": lambda gate, up, kind: activations[kind](gate) * up,
    "softmax": lambda x: F.softmax(x, -1), "rms_norm": rms_norm, "layer_norm": layer_norm, "add_rms_norm": residual(rms_norm), "add_layer_norm": residual(layer_norm),
    "dropout": lambda x, p: F.dropout(x, p, training=True), "embedding": lambda weight, ids: F.embedding(ids, weight), "rope": rope, "attention": attention,
    "cross_entropy": cross_entropy, "selective_log_softmax": selective_log_softmax,
    "linear_cross_entropy": lambda h, w, labels, items: F.cross_entropy(F.linear(h, w), labels, reduction="sum") / items,
    "linear_logprob": lambda h, w, ids, temperature: selective_log_softmax(F.linear(h, w), ids, temperature),
    "linear_divergence": linear_divergence, "policy_loss": policy_loss, "group_advantages": group_advantages, "gae": gae, "sample": sample,
    "convert": lambda x: x.to(torch.bfloat16), "add": torch.add, "scale": lambda x: x * 1.5, "exp": torch.exp, "abs": torch.abs,
    "where": lambda a, b: torch.where(a > 0, a, b), "sum": lambda x, axis: x.sum(axis), "permute": lambda x, order: x.permute(order).contiguous(),
    "slice": lambda x: x[:, 1024:3072].contiguous(), "concat": lambda a, b: torch.cat((a, b), 1), "gather": lambda x, ids: torch.gather(x, -1, ids),
    "gather_rows": lambda x, ids: x[ids], "norm": lambda x: torch.linalg.vector_norm(x), "count_non_finite": lambda x: torch.isfinite(x).logical_not().sum(),
}


def adamw(parameter, first, second, gradient):
    leaf = torch.nn.Parameter(parameter)
    leaf.grad = gradient
    return torch.optim.AdamW([leaf], lr=1e-4, weight_decay=0.1, fused=True).step


def merge_lora(a, b, weight, scale):
    """PEFT's get_delta_weight and merge."""
    def merge():
        weight.data += (b @ a) * scale
    return merge


def scatter_rows(y, x, ids):
    return lambda: y.index_copy_(0, ids, x)


updates = {
    "adamw": adamw, "merge_lora": merge_lora, "scatter_rows": scatter_rows, "add_into": lambda y, x: lambda: y.add_(x),
    "random_uniform": lambda x: x.uniform_, "random_normal": lambda x: x.normal_,
}
