"""Would a tuning or an encoding run on this machine? Memory is estimated, time is tried.

Memory comes from the configuration and the texts, before any weights are fetched. On a CPU a few
batches and steps are then timed with the weights. What does not fit, or would take a CPU more than
three hours, is refused with status 2. `make qwen` asks this first.

Gives:    a line with the memory needed, and on a CPU one with the time.
Command:  python tests/helpers/check_machine.py [--encode-only] --nf4 --lora ..
          (options: those of contrastive.py)
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
import transformers

import contrastive as con
import encode as enc
import metrics
from metrics import BadInput

BYTES_NF4 = 4.127 / 8  # a weight in NF4 with double quantisation: 4 bits, 8/64 and 32/(64 256) more
PROCESS = 0.7e9  # bytes of Python and its libraries; measured .5
SLACK = 1.25  # memory of a process over that of its tensors; measured up to 1.2
PATIENCE = 3 * 3600  # seconds; what takes a CPU longer is refused


@dataclass(frozen=True)
class Settings(con.Settings):
    encode_only: bool = False  # nothing is to be tuned, and the encoding may take hours


def memory_need(config, facts, s, tokens):
    """Bytes of {"weights", "training", "activations"} for a step of so many tokens, and "encoding".

    A dry run on the meta device, which has shapes but no memory: what autograd saves is counted,
    not guessed. Training: float32 parameter, gradient and AdamW's two moments, 16 bytes each.
    Encoding: a layer's activations or, if larger, the largest tensor twice, while it is loaded.
    """
    held, dtype = {}, getattr(torch, s.dtype)

    def pack(tensor):
        held[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    config.use_cache = True  # else transformers reads the values of positions, which meta lacks
    with torch.device("meta"), enc.one_line("no model has this configuration"):
        model = transformers.AutoModel.from_config(config, dtype=dtype)
        sizes = [p.numel() for p in model.parameters()]
        linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
        model = con.with_lora(model, s, facts) if s.lora else model
        ids = torch.zeros(-(-tokens // 128), 128, dtype=torch.long)  # (B, T)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.train()(input_ids=ids)
    for p in model.parameters():  # kept in any case
        held.pop(p.untyped_storage()._cdata, None)
    saved, layers = sum(held.values()), config.num_hidden_layers
    stored = (config.dtype or torch.float32).itemsize  # bytes a weight, in its file
    encoding = max(2 * max(sizes) * stored, saved / layers / tokens * max(s.budget, tokens))
    if s.checkpointing:  # each layer's input, and one layer in full
        saved = saved / layers + layers * tokens * config.hidden_size * dtype.itemsize
    weights = linear * (BYTES_NF4 if s.nf4 else dtype.itemsize)
    weights += (sum(sizes) - linear) * dtype.itemsize
    training = 16 * model.num_parameters(only_trainable=True)
    return {"weights": weights, "training": training, "activations": saved, "encoding": encoding}


def probe(encoder, ids, examples, s, texts=256, steps=3):
    """Seconds to encode all texts once, by random ones, and to tune, by a few random steps."""
    rng, lengths = np.random.default_rng(0), np.array([len(x) for x in ids])  # (I,)
    some, start = rng.permutation(len(ids))[:texts], time.perf_counter()
    enc.embed(encoder, ids, s.budget, some)
    encoding = (time.perf_counter() - start) * lengths.sum() / lengths[some].sum()
    if s.encode_only:
        return encoding, 0
    examples.refresh(lambda items: torch.randn(len(items), encoder.model.config.hidden_size))
    encoder.model.train()
    start = time.perf_counter()
    for _ in range(steps):
        con.backward(encoder, ids, examples, rng.choice(len(examples.items), s.batch), s.budget)
    step = (time.perf_counter() - start) / steps
    return encoding, step * (s.max_steps or con.steps_of(s, examples))


def bytes_needed(s, config, facts, ids, examples):
    """(to encode, to tune): the most, in the step whose texts are the longest."""
    texts = examples.items.shape[1] * s.batch  # of a step, which encodes each of them once
    longest = np.sort([len(x) for x in ids])[-texts:]
    runs = enc.batches(longest, s.budget)
    tokens = sum((end - start) * longest[end - 1] for start, end in runs)  # with the padding
    need = memory_need(config, facts, s, tokens)
    encode = need["weights"] + need["encoding"]
    tune = max(encode, need["weights"] + need["training"] + need["activations"])
    if torch.cuda.is_available():
        return encode, tune
    return SLACK * encode + PROCESS, SLACK * tune + PROCESS


def check(s):
    """Refuse what cannot run here, for lack of memory before anything large is fetched."""
    # 1. Memory, by small files
    facts, folder = enc.find_encoder(s.encoder, s.weights, files=["*.json", "*.txt"])
    with enc.one_line(f"{folder} cannot be loaded"):
        config = transformers.AutoConfig.from_pretrained(folder, **enc.LOCAL)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **enc.LOCAL)
    examples, texts = con.read_inputs(s)
    ids, cuda = enc.tokenize(enc.Encoder(None, tokenizer, facts), texts), torch.cuda.is_available()
    encode, tune = bytes_needed(s, config, facts, ids, examples)
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    there = torch.cuda.mem_get_info()[0] if cuda else ram
    need = f"{encode / 1e9:.1f} GB to encode, {tune / 1e9:.1f} GB to tune"
    print(f"needs {need}, of {there / 1e9:.1f} GB", flush=True)
    if (encode if s.encode_only else tune) > 0.9 * there:
        how = "a smaller model: QWEN=Qwen/Qwen3-Embedding-0.6B"
        if not s.encode_only and encode <= 0.9 * there:
            how += ", or `make qwen CPU=1`, which only encodes"
        raise BadInput(f"too little memory; try {how}")
    # 2. Time; a GPU has enough of it
    if not cuda:
        times = probe(con.build(s, *enc.find_encoder(s.encoder, s.weights)), ids, examples, s)
        long = [f"{t / 60:.0f} minutes" if t < 7200 else f"{t / 3600:.0f} hours" for t in times]
        told = f"on this CPU: about {long[0]} to encode the texts once"
        if not s.encode_only:
            told += f", {long[1]} to tune"
        if sum(times) > PATIENCE and not s.encode_only:
            how = "`make qwen CPU=1` makes the base rows all the same, contrastive.py does not ask"
            raise BadInput(f"{told}; a CUDA GPU takes minutes; {how}")
        print(told)


def main():
    check(con.read_settings(Settings, __doc__))


if __name__ == "__main__":
    metrics.run(main)
