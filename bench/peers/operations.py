"""Times single operations in PyTorch: reads a request a line (OperationRequest of operations.ts) and answers a line each, until its input ends."""
import argparse
import json
import sys

import torch

from formulas import formulas, updates
from timing import measure

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--device", default="cpu")
options = parser.parse_args()
torch.set_num_threads(options.threads)
torch.manual_seed(0)


def draw(described, dtype):
    if described["kind"] == "integer":
        return torch.tensor(described["values"], dtype=torch.int64, device=options.device).reshape(described["shape"])
    kind = getattr(torch, described.get("fixed", dtype))
    tensor = torch.empty(described["shape"], dtype=torch.float32, device=options.device).uniform_(described["low"], described["high"]).to(kind)
    return tensor.requires_grad_(described["gradient"])


def synchronised(call):
    if options.device == "cpu":
        return call

    def waiting():
        call()
        torch.cuda.synchronize()
    return waiting


def body(request):
    """The call to time."""
    chosen = dict(request["formula"])
    name = chosen.pop("formula")
    inputs = [draw(described, request["dtype"]) for described in request["inputs"]]
    if name in updates:
        with torch.no_grad():
            return updates[name](*[tensor.detach() for tensor in inputs], **chosen)
    formula = formulas[name]

    def outputs():
        made = formula(*inputs, **chosen)
        return [tensor for tensor in (made if isinstance(made, tuple) else (made,)) if tensor is not None]

    def forward():
        with torch.no_grad():
            outputs()

    if not request["backward"]:
        return forward
    gradients = [torch.ones_like(tensor) for tensor in outputs() if tensor.requires_grad]

    def both():
        for tensor in inputs:
            tensor.grad = None
        torch.autograd.backward([tensor for tensor in outputs() if tensor.requires_grad], gradients)
    return both


def inplace(call):
    def quiet():
        with torch.no_grad():
            call()
    return quiet


for line in sys.stdin:
    request = json.loads(line)
    try:
        call = body(request)
        if request["formula"]["formula"] in updates:
            call = inplace(call)
        answer = {"timing": measure(synchronised(call), request["seconds"], request["limit"], least=5)}
        del call
    except Exception as error:  # The benchmarks go on without this figure.
        answer = {"failure": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
