"""Size and speed of Qwen3-Embedding-4B in NF4 with LoRA on a GPU, random weights, real lengths.

    python tests/studies/bench_qlora.py --ratings out/ratings.safetensors --texts out/documents.txt

Needs a CUDA GPU and bitsandbytes, but not the 4B weights: time and memory do not depend on their
values. The texts' token counts come from the tokenizer of --tokens (MiniLM's by default; WordPiece
and Qwen's BPE differ by a few per cent). Prints, as Markdown, for the obvious way (transformers +
peft, two padded batches of 4 a step, texts in file order) and for ours, with and without activation
checkpointing: peak memory, tokens per second, the time of the whole run; then what a card can hold.
"""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import bitsandbytes as bnb
import numpy as np
import torch
import transformers

import contrastive as con
import encode as enc
from metrics import BadInput, parse, run

CONFIG = transformers.Qwen3Config(  # config.json of Qwen/Qwen3-Embedding-4B
    vocab_size=151_665,
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    use_cache=False,
)


FACTS = replace(enc.QWEN_4B, pooling="lasttoken", max_length=8192)  # no folder says it


@dataclass(frozen=True)
class Settings:
    ratings: Path  # safetensors of main.py prepare
    texts: Path  # one document a line, in item order
    tokens: str = "data/minilm"  # folder of the tokenizer that gives the texts their lengths
    steps: int = 30  # timed training steps
    budget: int = 16384  # padded tokens a batch, ours


def random_nf4(config, device):
    """A Qwen3 model with random weights, quantised layer by layer: never whole in bf16."""
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config, dtype=torch.bfloat16)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, _random_linear(child, device))
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if p.is_meta:  # embedding and norms
                value = torch.empty_like(p, device=device).normal_(
                    0.0 if p.dim() > 1 else 1.0, 0.02
                )
                setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    with torch.device(device):
        model.rotary_emb = type(model.rotary_emb)(config)
    return enc.prepare_nf4(model).requires_grad_(False).eval()


def _random_linear(layer, device):
    new = bnb.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=False,
        compute_dtype=torch.bfloat16,
        quant_type="nf4",
        device="meta",
    )
    value = torch.randn(layer.weight.shape, dtype=torch.bfloat16) * 0.02
    new.weight = bnb.nn.Params4bit(value, requires_grad=False, quant_type="nf4", module=new)
    return new.to(device)


def timed(work):
    """(result, seconds, peak bytes) of work()."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    result = work()
    torch.cuda.synchronize()
    return result, time.perf_counter() - start, torch.cuda.max_memory_allocated()


def padded_step(encoder, ids, examples, rows):
    """The obvious step: the two sides of the pairs as two padded batches, nothing shared."""
    a, b = (enc.forward(encoder, [ids[i] for i in examples.items[rows, k]]) for k in (0, 1))
    con.pair_loss(a, b)[0].backward()


def padded_encoding(encoder, ids, batch=32):
    with torch.inference_mode():
        for start in range(0, len(ids), batch):
            enc.forward(encoder, ids[start : start + batch])


def measure(name, encoder, ids, examples, s, step, encoding):
    """One row of the table."""
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
    _, seconds, peak = timed(lambda: train(batches))
    tokens = sum(len(ids[i]) for i in examples.items[batches].flat)
    encoder.model.eval()
    _, whole, peak_encoding = timed(encoding)
    tuning = 2 * -(-len(examples.items) // 4) * seconds / s.steps  # two passes
    print(
        f"| {name} | {tokens / seconds:.0f} | {peak / 1e9:.2f} | {tuning / 60:.1f} |"
        f" {sum(map(len, ids)) / whole:.0f} | {peak_encoding / 1e9:.2f} | {whole / 60:.2f} |",
        flush=True,
    )


def cards(examples, ids):
    """The largest batch whose worst step fits 90 % of a card, by contrastive.memory_need."""
    lengths = np.sort(np.array([sum(len(ids[i]) for i in row) for row in examples.items]))[::-1]
    base = con.Settings(
        encoder="qwen3-4b", ratings="", texts="", out="", lora=True, nf4=True, dtype="bfloat16"
    )
    print("\n| card, GB | pairs a step | with checkpointing |\n|---|---|---|")
    for size in (8, 12, 16, 24):
        fits = []
        for checkpointing in (False, True):
            s = replace(base, checkpointing=checkpointing)
            need = con.memory_need(CONFIG, FACTS, s, 1024)
            room = 0.9e9 * size - need["weights"] - need["training"]
            tokens = room / (need["activations"] / 1024)
            fits.append(int(np.searchsorted(np.cumsum(lengths), tokens)))
        print(f"| {size} | {fits[0]} | {fits[1]} |")


def main():
    s = parse(Settings, __doc__)
    if not torch.cuda.is_available():
        raise BadInput("this benchmark needs a CUDA GPU, and there is none")
    tokenizer = transformers.AutoTokenizer.from_pretrained(s.tokens, local_files_only=True)
    ids = enc.tokenize(enc.Encoder(None, tokenizer, FACTS), enc.read_texts(s.texts))
    read = con.Settings(encoder="", ratings=s.ratings, texts=s.texts, out="")
    examples = con.read_examples(read)
    lora = replace(read, lora=True, nf4=True, dtype="bfloat16")
    model = con.with_lora(random_nf4(CONFIG, "cuda"), lora, FACTS)
    trained, total = model.get_nb_trainable_parameters()
    print(f"{torch.cuda.get_device_name()}; {trained:,} of {total:,} parameters trained\n")
    print("| way | tuning tok/s | GB | minutes | encoding tok/s | GB | minutes |")
    print("|---|---|---|---|---|---|---|")
    encoder = enc.Encoder(model, tokenizer, FACTS)
    ours = (
        lambda rows: con.backward(encoder, ids, examples, rows, s.budget),
        lambda: enc.embed(encoder, ids, s.budget),
    )
    obvious = (
        lambda rows: padded_step(encoder, ids, examples, rows),
        lambda: padded_encoding(encoder, ids),
    )
    measure("padded batch of 4", encoder, ids, examples, s, *obvious)
    measure("ours", encoder, ids, examples, s, *ours)
    model.activation_checkpointing_enable({"use_reentrant": False})
    measure("ours, checkpointing", encoder, ids, examples, s, *ours)
    cards(examples, ids)


if __name__ == "__main__":
    run(main)
