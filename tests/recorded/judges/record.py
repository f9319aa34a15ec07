"""What TRL's judges that compare two answers send, and how they read what comes back. Needs trl 1.0.0, the last release with judges, and huggingface_hub.

OpenAIPairwiseJudge speaks to a client that stands for OpenAI's, HfPairwiseJudge through huggingface_hub to a server on this machine.

    python record.py
"""
import json
import pathlib
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np

MODEL, TEMPLATE = "judge", "Q: {prompt}\nA: {response0}\nB: {response1}"
PROMPTS = ["Where is Paris?", "Say {response1}", "2 + 2", "A colour", "Why?", "Greet"]
PAIRS = [["In France.", "In Texas, I think."], ["{prompt}", "no"], ["4", "four"], ["red", "blue"], ["", "Because."], ["Hé, 你好", 'a "b"\n\nc']]
# Where only the reply matters.
REPLIES = ["0", "1", " 0", "1 ", "1\n", "2", "-1", "", "01", "10", "0.", '"1"', "one", "Both", None]
requests = []
# Replies to come, then the rule.
queue = []


def longer(content):
    first, second = content.split("\nA: ")[1].split("\nB: ", 1)
    return "0" if len(first) >= len(second) else "1"


RULES = {"longer": longer, "first": lambda _: "0", "second": lambda _: "1", "mute": lambda _: "Both"}
rule = "first"


def answer(body):
    content = body["messages"][0]["content"]
    reply = queue.pop(0) if queue else RULES[rule](content)
    requests.append({"body": body, "reply": reply})
    return reply


class OpenAI:
    def __init__(self):
        def create(**body):
            return types.SimpleNamespace(choices=[types.SimpleNamespace(message=types.SimpleNamespace(content=answer(body)))])

        self.chat = types.SimpleNamespace(completions=types.SimpleNamespace(create=create))


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": answer(body)}
        text = json.dumps({"id": "", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        paths.add(self.path)

    def log_message(self, *_):
        pass


sys.modules["openai"] = types.SimpleNamespace(OpenAI=OpenAI)
import trl  # noqa: E402
from trl.experimental.judges import HfPairwiseJudge, OpenAIPairwiseJudge, judges  # noqa: E402

judges.is_openai_available = lambda: True
paths = set()
server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()


def make(kind, max_requests=None):
    if kind == "openai":
        return OpenAIPairwiseJudge(MODEL, TEMPLATE, max_requests)
    return HfPairwiseJudge(f"http://127.0.0.1:{server.server_port}/v1", None, TEMPLATE)


def ask(judge, prompts, pairs, shuffle):
    """Ranks, and what was sent for each pair: whether the second answer was read first, the text, and the reply."""
    requests.clear()
    ranks = judge.judge(prompts, pairs, shuffle_order=shuffle)
    sent = {request["body"]["messages"][0]["content"]: request["reply"] for request in requests}
    rows = []
    for prompt, pair, rank in zip(prompts, pairs, ranks):
        contents = [TEMPLATE.format(prompt=prompt, response0=one, response1=other) for one, other in (pair, pair[::-1])]
        swapped = contents[0] not in sent
        rows.append({"swapped": swapped, "content": contents[swapped], "reply": sent[contents[swapped]], "rank": int(rank)})
    return rows


runs = []
for kind in ["openai", "hf"]:
    for rule in RULES:
        for seed in [None, 0, 1, 2]:
            np.random.seed(seed or 0)
            runs.append({"judge": kind, "rule": rule, "shuffled": seed is not None, "rows": ask(make(kind), PROMPTS, PAIRS, seed is not None)})
bodies = {}
for kind in ["openai", "hf"]:
    requests.clear()
    make(kind).judge(PROMPTS[:1], PAIRS[:1], shuffle_order=False)
    bodies[kind] = requests[0]["body"]
replies = []
for reply in REPLIES:
    ranks = {}
    for kind in ["openai", "hf"]:
        queue.append(reply)
        ranks[kind] = make(kind).judge(PROMPTS[:1], PAIRS[:1], shuffle_order=False)[0]
    replies.append({"reply": reply, "ranks": ranks})
limited, rule = make("openai", 3), "first"
requests.clear()
limit = [{"ranks": limited.judge(PROMPTS[:2], PAIRS[:2], shuffle_order=False), "asked": len(requests)} for _ in range(3)]
result = {"trl": trl.__version__, "template": TEMPLATE, "prompts": PROMPTS, "pairs": PAIRS, "bodies": bodies, "path": sorted(paths), "runs": runs, "replies": replies, "limit": limit}
(pathlib.Path(__file__).parent / "trl.json").write_text(json.dumps(result, ensure_ascii=False) + "\n")
