# Records PPO's numbers in float64: rewards, advantages, returns, losses and their gradients by torch's autograd, after the formulas of TRL 1.10's
# trl/experimental/ppo/ppo_trainer.py; and verl 0.8's estimator with masked tokens and dual clip. torch 2.13. Writes ppo.json beside itself.
import json, pathlib
import torch

torch.set_default_dtype(torch.float64)
here = pathlib.Path(__file__).parent
g = torch.Generator().manual_seed(7)


def masked_mean(x, m): return (x * m).sum() / m.sum()


def masked_whiten(x, m, shift=True):
    mean = masked_mean(x, m)
    var = masked_mean((x - mean) ** 2, m)
    var = var * m.sum() / (m.sum() - 1)
    y = (x - mean) * torch.rsqrt(var + 1e-8)
    return y if shift else y + mean


def run(inp, estimator, whiten_rewards, dual, mask=None, lam=.95, gamma=1.0, kl_coef=.05, cliprange=.2, clip_value=.2, vf=.1):
    lp, ref, V, score, length = (torch.tensor(inp[k]) for k in ("logprobs", "ref_logprobs", "values", "scores", "sequence_lengths"))
    new = torch.tensor(inp["new_logprobs"], requires_grad=True)
    vpred = torch.tensor(inp["vpred"], requires_grad=True)
    B, T = lp.shape
    idx = torch.arange(T).repeat(B, 1)
    own = torch.ones_like(lp) if mask is None else torch.tensor(mask, dtype=lp.dtype)
    pad, pad1 = idx > length[:, None], idx > length[:, None] + 1
    m, m1 = (~pad).double() * own, (~pad1).double() * torch.where(pad, torch.ones_like(own), own)
    lp, ref = lp.masked_fill(pad, 1.0), ref.masked_fill(pad, 1.0)
    V = V.masked_fill(pad1, 0)
    kl = lp - ref if estimator == "k1" else torch.exp(ref - lp) - 1 - (ref - lp)
    rewards = -kl_coef * kl * m
    end = torch.where(length + 1 < T, length + 1, length)
    rewards[torch.arange(B), end] += score
    if whiten_rewards:
        rewards = masked_whiten(rewards, m1, shift=False) * m1
    last, nextv = torch.zeros(B), torch.zeros(B)
    out = []
    for t in reversed(range(T)):
        delta = rewards[:, t] + gamma * nextv - V[:, t]
        a = delta + gamma * lam * last
        keep = m1[:, t]
        nextv = V[:, t] * keep + (1 - keep) * nextv
        last = a * keep + (1 - keep) * last
        out.append(a * keep)
    adv = torch.stack(out[::-1], 1)
    returns = adv + V
    A = masked_whiten(adv, m) * m
    vclip = torch.clamp(vpred, V - clip_value, V + clip_value)
    l1, l2 = (vpred - returns) ** 2, (vclip - returns) ** 2
    vf_loss = .5 * masked_mean(torch.max(l1, l2), m1)
    ratio = torch.exp(torch.where(pad, torch.zeros_like(new), new - lp))
    pg = torch.max(-A * ratio, -A * torch.clamp(ratio, 1 - cliprange, 1 + cliprange))
    if dual:
        pg = torch.where(A < 0, torch.min(pg, -A * dual), pg)
    pg_loss = masked_mean(pg, m)
    loss = pg_loss + vf * vf_loss
    loss.backward()
    return dict(kl_estimator=estimator, whiten_rewards=whiten_rewards, dual_clip=dual, mask=mask, rewards=rewards.tolist(), advantages=A.tolist(), returns=returns.tolist(),
                pg_loss=pg_loss.item(), vf_loss=vf_loss.item(), vf_clipfrac=masked_mean((l2 > l1).double(), m1).item(), loss=loss.item(),
                d_new_logprobs=new.grad.tolist(), d_vpred=vpred.grad.tolist())


B, T = 4, 7
rnd = lambda scale=1.0: torch.randn(B, T, generator=g) * scale
lp = -rnd().abs()
inputs = dict(logprobs=lp.tolist(), ref_logprobs=(lp + rnd(.3)).tolist(), values=rnd(.7).tolist(), scores=[1.0, -.5, 2.0, .25], sequence_lengths=[6, 2, 4, 0],
              new_logprobs=(lp + rnd(.4)).tolist(), vpred=rnd(.7).tolist())
tools = [[1, 1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
cases = [run(inputs, e, w, d, mask) for e in ("k1", "k3") for w in (False, True) for d, mask in ((None, None), (1.1, None), (None, tools), (1.1, tools))]
trl = json.load(open(here / "trl.json"))
for case in trl["cases"]:
    mine = run(trl["inputs"], case["kl_estimator"], case["whiten_rewards"], None)
    for name in ("pg_loss", "vf_loss", "loss"):
        assert abs(mine[name] - case[name]) < 1e-9, (name, mine[name], case[name])
json.dump(dict(inputs=inputs, cases=cases), open(here / "ppo.json", "w"))
