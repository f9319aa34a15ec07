"""Reads with TensorBoard's own EventAccumulator what write.ts wrote, and records what it saw.

Run: npx tsx write.ts FOLDER && python check.py FOLDER   (needs tensorboard; writes result.json beside itself)
"""
import json, os, sys
import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, SCALARS, TENSORS, HISTOGRAMS, COMPRESSED_HISTOGRAMS

accumulator = EventAccumulator(sys.argv[1], size_guidance={SCALARS: 0, TENSORS: 0, HISTOGRAMS: 0, COMPRESSED_HISTOGRAMS: 0})
accumulator.Reload()
tags = accumulator.Tags()
losses = accumulator.Scalars("train/loss")
histogram = accumulator.Histograms("weights")[0].histogram_value
text = lambda tag: accumulator.Tensors(tag)[0].tensor_proto.string_val[0].decode()
assert [e.step for e in losses] == list(range(1, 1001))
assert all(abs(e.value - 4 / e.step) <= 1e-6 * 4 / e.step for e in losses)
assert accumulator.SummaryMetadata("samples").plugin_data.plugin_name == "text"
assert text("samples") == "**Hello**\n\n\u4f60\u597d" and '"note": "w\u00f6rld"' in text("args")
assert histogram.num == 1000 and len(histogram.bucket_limit) == len(histogram.bucket) == 30 and sum(histogram.bucket) == 1000
result = {
    "tensorboard": tensorboard.__version__, "scalars": sorted(tags["scalars"]), "tensors": sorted(tags["tensors"]), "histograms": tags["histograms"],
    "lossPoints": len(losses), "tokensSeenAtEnd": accumulator.Scalars("train/tokens_seen")[-1].value, "evalAccuracy": accumulator.Scalars("eval/mean_token_accuracy")[0].value,
    "histogram": {"min": histogram.min, "max": histogram.max, "num": histogram.num, "buckets": len(histogram.bucket)},
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "result.json"), "w") as f:
    json.dump(result, f, indent=1)
    f.write("\n")
print(json.dumps(result, indent=1))
