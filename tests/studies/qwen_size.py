"""Qwen3-Embedding-4B at its full size, with random weights: what it needs and how long it takes.

Memory and time do not depend on the values of the weights, so nothing is fetched: a folder is
written with the configuration of the 4B model and random numbers in sharded bf16 files. On it run
the commands of `make qwen`, each in a process of its own: check_machine.py, the encoding of the
longest texts, two steps of LoRA on NF4, and the encoding with the adapter. Measured: seconds and
peak memory, beside what check_machine.py estimates before it loads anything.

On a CUDA GPU also, on all texts: tokens a second and peak memory of the obvious way (transformers
and peft, two padded batches of 4 a step, texts in file order) and of ours, with and without
activation checkpointing; then what a card can hold.

The tokenizer is that of --tokens: MiniLM's WordPiece and Qwen's BPE differ by a few per cent.

Gives:    out/qwen_size.json and out/qwen_size.md.
Command:  python tests/studies/qwen_size.py [--layers 2]
Needs:    out/ratings.safetensors and out/documents.txt of main.py prepare; for the whole model 9 GB
          of disk and, on a CPU, 14 GB of memory.
"""

import json
import re
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import check_machine  # in tests/helpers/
import numpy as np
import torch
import transformers
from common import machine, timed
from safetensors.torch import load_file, save_file
from tiny_qwen import save_pooling  # in tests/

import contrastive as con
import encode as enc
import metrics
from main import markdown, write_texts
from metrics import BadInput, parse, run, stage

SHAPE = {  # config.json of Qwen/Qwen3-Embedding-4B, but for its 36 layers
    "vocab_size": 151_665,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


@dataclass(frozen=True)
class Settings:
    out: Path = Path("out")  # folder of the ratings and documents, and to write to
    tokens: str = "data/minilm"  # folder of a tokenizer
    layers: int = 36  # of the model; fewer for a trial
    texts: int = 16  # that the commands encode, the longest
    steps: int = 30  # of training that are timed on a GPU
    budget: int = 16384  # padded tokens a batch on a GPU, ours


# ------------------------------------------------------------------------------------------------
# Files: an encoder with random weights, some texts, ratings of them
# ------------------------------------------------------------------------------------------------


def config_of(s):
    return transformers.Qwen3Config(**SHAPE, num_hidden_layers=s.layers, dtype="bfloat16")


def write_encoder(folder, s):
    """What the hub has of the 4B model, its weights random; returns the number of parameters."""
    folder.mkdir()
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config_of(s))
    parameters = model.num_parameters()
    if s.layers == Settings.layers and parameters != enc.QWEN_4B.parameters:
        raise BadInput(f"SHAPE makes {parameters:,} parameters, not those of {enc.QWEN_4B.hub}")
    shards, index = {}, {}  # a shard is a layer, the embedding or the last norm
    for name, p in model.named_parameters():
        shards.setdefault(name.removeprefix("layers.").partition(".")[0], {})[name] = p.shape
    for number, shapes in enumerate(shards.values(), 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights = {n: torch.ones(shape, dtype=torch.bfloat16) for n, shape in shapes.items()}
        for weight in weights.values():
            if weight.dim() > 1:  # else it is the scale of a norm
                weight.normal_(0, 0.02)
        save_file(weights, folder / file, {"format": "pt"})
        index |= dict.fromkeys(shapes, file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    config_of(s).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(s.tokens).save_pretrained(folder)
    save_pooling(folder, SHAPE["hidden_size"])
    return parameters


def write_data(folder, s):
    """The longest documents, and ratings by 8 users, who like about half; returns their tokens."""
    texts = enc.read_texts(s.out / "documents.txt")
    ids = transformers.AutoTokenizer.from_pretrained(s.tokens)(texts)["input_ids"]
    longest = sorted(range(len(ids)), key=lambda i: len(ids[i]))[-s.texts :]
    (folder / "texts.txt").write_text("".join(f"{texts[i]}\n" for i in longest))
    n, rng = len(longest), np.random.default_rng(0)
    arrays = {
        "train_users": np.repeat(np.arange(8, dtype=np.int32), n),  # (N,)
        "train_items": np.tile(np.arange(n, dtype=np.int32), 8),  # (N,)
        "train_ratings": rng.choice([2.0, 4.5], 8 * n),  # (N,)
        "valid": np.zeros(8 * n, dtype=bool),
        "liked": np.array(4.0),
        "highest": np.array(5.0),
        "user_ids": np.arange(8),
    }
    metrics.save(folder / "ratings.safetensors", arrays, {})
    return sum(len(ids[i]) for i in longest)


# ------------------------------------------------------------------------------------------------
# The commands, each in a process of its own
# ------------------------------------------------------------------------------------------------

ENCODE = "encode.py --encoder model --texts texts.txt --nf4 --dtype bfloat16"
TUNE = "--encoder model --texts texts.txt --nf4 --dtype bfloat16 --lora --lr 2e-4"
TUNE += " --ratings ratings.safetensors --batch 4 --max-steps 2 --warmup 0 --out adapter"
COMMANDS = {
    "check": f"tests/helpers/check_machine.py {TUNE}",
    "encode": f"{ENCODE} --out base.safetensors",
    "two steps": f"contrastive.py {TUNE}",
    "encode again": f"{ENCODE} --out tuned.safetensors --adapter adapter",
}


def run_commands(folder, s):
    """{"commands": {name: timed()}, ..}: what they measure, and what they made of the model."""
    found = {}
    for name, line in COMMANDS.items():
        with stage(s.out / "qwen_size.json", name), open(folder / name, "w") as told:
            found[name] = timed(*line.split(), folder=folder, stdout=told)
    told = (folder / "check").read_text()
    needs = re.search(r"needs (.*) GB to encode, (.*) GB to tune", told).groups()
    files = (folder / f"{name}.safetensors" for name in ("base", "tuned"))
    base, tuned = (metrics.load(file)["embeddings"] for file in files)  # (n, D) each
    if np.array_equal(base, tuned):
        raise BadInput("the adapter leaves every vector as it was")
    training = metrics.read_json(folder / "adapter" / "training.json")
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    grown = [bool(weight.any()) for name, weight in adapter.items() if "lora_B" in name]
    return {
        "commands": found,
        "estimate": dict(zip(("encode", "tune"), (1e9 * float(x) for x in needs), strict=True)),
        "cosine": float((base * tuned).sum(axis=1).mean()),
        "lora_B": {"layers": len(grown), "not zero": sum(grown)},
        **{name: training[name] for name in ("trainable", "parameters", "losses")},
        "step_seconds": training["seconds"] / len(training["losses"]),
    }


# ------------------------------------------------------------------------------------------------
# A GPU: the obvious way and ours, on all texts
# ------------------------------------------------------------------------------------------------


def padded_step(encoder, ids, examples, rows):
    """The obvious step: the two sides of the pairs as two padded batches, nothing shared."""
    a, b = (enc.forward(encoder, [ids[i] for i in examples.items[rows, k]]) for k in (0, 1))
    con.pair_loss(a, b)[0].backward()


def padded_encoding(encoder, ids, batch=32):
    with torch.inference_mode():
        for start in range(0, len(ids), batch):
            enc.forward(encoder, ids[start : start + batch])


def timed_on_gpu(work):
    """(seconds, peak bytes) of work()."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated()


def measure(name, encoder, ids, examples, s, step, encoding):
    """A row of the table: tokens a second, GB and minutes, of two passes of tuning; of encoding."""
    params = [p for p in encoder.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=1e-5)
    batches = np.random.default_rng(0).permutation(len(examples.items))[: 4 * s.steps]
    batches = batches.reshape(-1, 4)  # (steps, 4)

    def train(some):
        for rows in some:
            step(rows)
            optimiser.step()
            optimiser.zero_grad()

    encoder.model.train()
    train(batches[:2])  # warm-up
    seconds, peak = timed_on_gpu(lambda: train(batches))
    tokens = sum(len(ids[i]) for i in examples.items[batches].flat)
    encoder.model.eval()
    whole, peak_encoding = timed_on_gpu(encoding)
    tuning = 2 * -(-len(examples.items) // 4) * seconds / s.steps  # two passes
    cells = [f"{tokens / seconds:.0f}", f"{peak / 1e9:.2f}", f"{tuning / 60:.1f}"]
    cells += [f"{sum(map(len, ids)) / whole:.0f}", f"{peak_encoding / 1e9:.2f}"]
    return [name, *cells, f"{whole / 60:.2f}"]


def cards(examples, ids, base, s):
    """Rows: the largest batch whose worst step fits 90 % of a card, by memory_need."""
    lengths = np.sort([sum(len(ids[i]) for i in row) for row in examples.items])[::-1]
    rows = []
    for size in (8, 12, 16, 24):
        fits = []
        for checkpointing in (False, True):
            tuning = replace(base, checkpointing=checkpointing)
            found = check_machine.memory_need(config_of(s), enc.QWEN_4B, tuning, 1024)
            room = 0.9e9 * size - found["weights"] - found["training"]
            tokens = room / (found["activations"] / 1024)
            fits.append(str(np.searchsorted(np.cumsum(lengths), tokens)))
        rows.append([str(size), *fits])
    return rows


def compare_on_gpu(folder, s):
    """{"name", "ways", "cards"} of this GPU, on the ratings and documents of --out."""
    data = {"ratings": s.out / "ratings.safetensors", "texts": s.out / "documents.txt"}
    base = con.Settings(
        encoder=str(folder), out=folder, lora=True, nf4=True, dtype="bfloat16", **data
    )
    encoder, examples = con.build(base, *enc.find_encoder(base.encoder)), con.read_inputs(base)[0]
    ids = enc.tokenize(encoder, enc.read_texts(base.texts))
    ours = (
        lambda rows: con.backward(encoder, ids, examples, rows, s.budget),
        lambda: enc.embed(encoder, ids, s.budget),
    )
    obvious = (
        lambda rows: padded_step(encoder, ids, examples, rows),
        lambda: padded_encoding(encoder, ids),
    )
    found = {"name": torch.cuda.get_device_name(), "cards": cards(examples, ids, base, s)}
    found["ways"] = [measure("padded batches of 4", encoder, ids, examples, s, *obvious)]
    found["ways"] += [measure("ours", encoder, ids, examples, s, *ours)]
    encoder.model.activation_checkpointing_enable({"use_reentrant": False})
    found["ways"] += [measure("ours, checkpointing", encoder, ids, examples, s, *ours)]
    return found


# ------------------------------------------------------------------------------------------------
# Report
# ------------------------------------------------------------------------------------------------


def report(results):
    """qwen_size.md: the tables and what they say."""
    rows = []
    for name, found in results["commands"].items():
        cells = [f"{found['seconds']:.0f}", f"{found['peak_bytes'] / 1e9:.1f}"]
        most = results["estimate"]["encode" if "encode" in name else "tune"] / 1e9
        rows.append([name, *cells, "" if "gpu" in results else f"{most:.1f}"])  # a GPU's memory
    head = ["command", "seconds, loading included", "peak memory, GB", "estimate, GB"]
    losses = " -> ".join(f"{loss:.2f}" for loss in results["losses"])
    share, grown = results["trainable"] / results["parameters"], results["lora_B"]
    text = f"""Qwen3-Embedding-4B with random weights, {results["layers"]} of its 36 layers, \
{results["base_parameters"]:,} parameters; {results["texts"]} texts of {results["tokens"]} tokens. \
{results["machine"]}.

{markdown(head, rows)}
Trained: {results["trainable"]:,} of {results["parameters"]:,} parameters ({share:.3%}), \
{results["step_seconds"]:.1f} s a step of 4 pairs, loss {losses} \
(random weights and two steps: the loss says only that the steps ran).
The adapter, saved and loaded again: lora_B is not zero in {grown["not zero"]} of \
{grown["layers"]} layers; its vectors have a mean cosine of {results["cosine"]:.6f} to the base's.
"""
    if "gpu" not in results:
        return text
    gpu = results["gpu"]
    ways = ["way", "tuning, tokens/s", "GB", "minutes", "encoding, tokens/s", "GB", "minutes"]
    fits = ["card, GB", "pairs a step", "with checkpointing"]
    tables = f"{markdown(ways, gpu['ways'])}\n{markdown(fits, gpu['cards'])}"
    return f"{text}\nOn all texts, {gpu['name']}:\n\n{tables}"


def main():
    s = parse(Settings, __doc__, layers=1, texts=12, steps=1, budget=1)
    path = s.out / "qwen_size.json"
    results = {"machine": machine(), "layers": s.layers, "texts": s.texts}
    with tempfile.TemporaryDirectory(dir=s.out, prefix="qwen_size-") as folder:
        folder = Path(folder)
        with stage(path, f"random weights of {s.layers} layers"):
            results["base_parameters"] = write_encoder(folder / "model", s)
            results["tokens"] = write_data(folder, s)
        results |= run_commands(folder, s)
        if torch.cuda.is_available():
            with stage(path, "the obvious way and ours"):
                results["gpu"] = compare_on_gpu(folder / "model", s)
    texts = {"qwen_size.json": json.dumps(results, indent=1), "qwen_size.md": report(results)}
    write_texts(s.out, texts)
    print(texts["qwen_size.md"])


if __name__ == "__main__":
    run(main)
