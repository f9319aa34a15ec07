"""Times a step as bench/quiet.ts does: in blocks, of which only those count in which other processes were quiet.
A script parses its arguments with arguments() and ends with report(step)."""
import argparse
import json
import os
import resource
import statistics
import time

QUIET = 0.08
BLOCK = 0.2


def arguments(*more):
    """NAME and the options that every script of this folder takes; `more` are further flags."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=3, help="quiet seconds wanted")
    parser.add_argument("--limit", type=float, default=30, help="seconds after which the least disturbed blocks are taken")
    parser.add_argument("--compile", action="store_true")
    for flag in more:
        parser.add_argument(flag, action="store_true")
    return parser.parse_args()


def busy_seconds():
    """Seconds that all processors were busy, None where the system does not tell."""
    try:
        with open("/proc/stat") as file:
            fields = [int(field) for field in file.readline().split()[1:]]
    except OSError:
        return None
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(step, seconds=3.0, limit=30.0, least=3, most=2000):
    """Median and best seconds of step(), or of what it returns, the number of samples, and the share of the machine that others used."""
    step()
    blocks = []
    begin = time.perf_counter()
    while True:
        samples = []
        busy, own, start = busy_seconds(), own_seconds(), time.perf_counter()
        while True:
            before = time.perf_counter()
            counted = step()
            after = time.perf_counter()
            samples.append(after - before if counted is None else counted)
            if after - start >= BLOCK:
                break
        wall, total = time.perf_counter() - start, busy_seconds()
        others = None if busy is None else max(0.0, (total - busy - (own_seconds() - own)) / (wall * os.cpu_count()))
        blocks.append((others, wall, samples))
        good = [block for block in blocks if block[0] is None or block[0] < QUIET]
        count = sum(len(block[2]) for block in good)
        if count >= least and (sum(block[1] for block in good) >= seconds or count >= most):
            break
        if time.perf_counter() - begin > limit:
            break
    if not good:
        good = sorted(blocks, key=lambda block: block[0])[:max(1, len(blocks) // 4)]
    samples = sorted(sample for block in good for sample in block[2])
    others = None if any(block[0] is None for block in good) else sum(block[0] for block in good) / len(good)
    return {"median": statistics.median(samples), "best": samples[0], "samples": len(samples), "others": others}


def report(step, options):
    """Warms up, times and prints one line of JSON. A step may return the seconds of it that count."""
    step()
    result = measure(step, options.seconds, options.limit)
    result["peakMemory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result), flush=True)
