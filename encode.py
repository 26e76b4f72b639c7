"""Texts to vectors: MiniLM, MPNet, Qwen3-Embedding or a folder of sentence-transformers.

An encoder gives the T tokens of a text the last hidden states h_1 .. h_T. Its folder says which of
two poolings makes of them the embedding e of the text, and whether e has length 1:

    p = (h_1 + .. + h_T) / T   (MiniLM, MPNet: mean)    or    p = h_T   (Qwen3-Embedding: lasttoken)
    e = p / |p|   (all three)                           or    e = p

Gives:    (9742, 384) of ml-latest-small by MiniLM: with it MF + MiniLM (base) has 712 hits in the
          recipe `notebook` and 748 in `report`.
Command:  python encode.py --encoder minilm --weights data/minilm --texts out/documents.txt \\
              --out out/minilm.safetensors [--nf4] [--adapter DIR]
          torchrun --nproc-per-node 2 encode.py ...     each process encodes its share
Writes:   embeddings (I, D) float32; row i belongs to line i of --texts.
Legend: I items, B batch, T tokens, D dimensions.
"""

import atexit
import contextlib
import ctypes
import io
import logging
import os
import re
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn  # its default arguments would keep a group that exists already
import torch.nn.functional as F
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from transformers.utils.hub import snapshot_download

import metrics
from metrics import BadInput, load, provenance, read_json, sha256

for library in ("accelerate", "bitsandbytes", "huggingface_hub", "peft", "transformers"):
    logging.getLogger(library).setLevel(logging.ERROR)  # no hints among the lines of make

# ------------------------------------------------------------------------------------------------
# Texts -> vectors
# ------------------------------------------------------------------------------------------------


def tokenize(encoder, texts, note=print):
    """Token ids of each text, its special tokens included; note() is told how many were cut."""
    texts = [encoder.facts.prompt + text for text in texts]
    found = encoder.tokenizer(texts, truncation=True, max_length=encoder.facts.max_length)
    cut = sum(bool(e.overflowing) for e in found.encodings)
    if cut:
        note(f"{cut} of {len(texts)} texts cut at {encoder.facts.max_length} tokens")
    return found["input_ids"]


def pool(hidden, mask, pooling):
    """p of (B, T, D) states and their (B, T) mask, padded on the right: (B, D)."""
    if pooling == "lasttoken":  # by the mask, not by the pad id: Qwen3's pad token IS its end token
        return hidden[torch.arange(len(hidden)), mask.sum(dim=1) - 1]  # p = h_T
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)  # p = (h_1 + .. + h_T) / T


def forward(encoder, ids):
    """Embeddings (B, D) in float32 of one padded batch of token lists."""
    where = next(encoder.model.parameters()).device
    lengths = torch.tensor([len(x) for x in ids])  # (B,)
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in ids], batch_first=True)
    mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long().to(where)  # (B, T)
    hidden = encoder.model(input_ids=tokens.to(where), attention_mask=mask).last_hidden_state
    p = pool(hidden.float(), mask, encoder.facts.pooling)  # (B, D)
    return F.normalize(p, dim=1) if encoder.facts.unit else p  # e = p / |p|, or e = p


def encode(encoder, ids, budget=2048):
    """Embeddings (n, D) of n token lists, in their order; keeps gradient where there is one.

    Sorted by token count, cut into batches, put back; under torchrun each process does its share.
    """
    lengths = np.array([len(x) for x in ids])  # (n,)
    order = np.argsort(lengths, kind="stable")  # (n,)
    rank, world = rank_and_world()
    mine = order[rank::world]
    parts = [torch.zeros(0, encoder.model.config.hidden_size, device=device())]
    for start, end in batches(lengths[mine], budget):
        parts.append(forward(encoder, [ids[i] for i in mine[start:end]]))
    return gather(torch.cat(parts), len(ids))[np.argsort(order)]


def embed(encoder, ids, budget=2048, items=None):
    """(n, D) float32 array of embeddings: of all texts, or of those with the numbers `items`."""
    items = np.arange(len(ids)) if items is None else items  # (n,)
    encoder.model.eval()
    with torch.inference_mode():
        vectors = encode(encoder, [ids[i] for i in items], budget)  # (n, D)
        if encoder.facts.unit:
            vectors = F.normalize(vectors, dim=1)  # again: the first division rounds
        vectors = vectors.cpu().numpy()
    bad = items[~np.isfinite(vectors).all(axis=1)]
    if len(bad):
        raise BadInput(f"the embedding of text line {bad[0] + 1} is not finite: damaged weights?")
    return vectors


def batches(lengths, budget=2048, launch=128):
    """(start, end) runs of ascending `lengths` that cost least: padded tokens + `launch` a batch.

    No batch exceeds `budget` padded tokens, unless it is a single text. Dynamic programming over
    the end of the last batch; `launch` is what starting a batch costs, in tokens (measured).
    """
    n = len(lengths)
    cost, start = np.zeros(n + 1), np.zeros(n + 1, dtype=int)  # (n + 1,) of the first j texts
    for j in range(1, n + 1):
        i = np.arange(max(0, j - max(1, budget // lengths[j - 1])), j)  # where it may start
        total = cost[i] + (j - i) * lengths[j - 1] + launch
        start[j], cost[j] = i[total.argmin()], total.min()
    runs = []
    while n:
        runs.append((int(start[n]), n))
        n = start[n]
    return runs[::-1]


# ------------------------------------------------------------------------------------------------
# Encoders: their folders, and how they are loaded
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What the code must know of an encoder; its folder gives the last four, see find_encoder()."""

    hub: str  # name on the hub, or the folder
    revision: str = ""  # commit on the hub
    sha256: str = ""  # of its files, where known, as sha256sum prints them
    parameters: int = 0  # without a pooler; 0 where not known
    pooling: str = ""  # "mean" over tokens, or the "lasttoken"
    max_length: int = 0  # tokens; longer texts are cut
    unit: bool = True  # embeddings are brought to length 1
    prompt: str = ""  # put before every text


MINILM = Facts(  # this and the others: under Apache-2.0
    hub="sentence-transformers/all-MiniLM-L6-v2",
    revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
    sha256="""
    53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
    953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
    be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
    acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b  tokenizer_config.json
    84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf  modules.json
    fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7  sentence_bert_config.json
    4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23  1_Pooling/config.json""",
    parameters=22_565_376,
)
MPNET = Facts(
    hub="sentence-transformers/all-mpnet-base-v2",
    revision="e8c3b32edf5434bc2275fc9bab85f82640a19130",
    sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658  model.safetensors",
    parameters=108_895_872,
)
QWEN_4B = Facts(
    hub="Qwen/Qwen3-Embedding-4B",
    revision="5cf2132abc99cad020ac570b19d031efec650f2b",
    parameters=4_021_774_336,
)
QWEN_06B = Facts(
    hub="Qwen/Qwen3-Embedding-0.6B",
    revision="97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3",
    sha256="0437e45c94563b09e13cb7a64478fc406947a93cb34a7e05870fc8dcd48e23fd  model.safetensors",
    parameters=595_776_512,
)
ENCODERS = {"minilm": MINILM, "mpnet": MPNET, "qwen3-0.6b": QWEN_06B, "qwen3-4b": QWEN_4B}
MODULES = ["Transformer", "Pooling", "Normalize"]  # of sentence-transformers; the last is optional
TEXT_FILES = ("sentence_*_config.json", "config_sentence_transformers.json")  # both are optional
LONGEST = 1_000_000  # characters a text: a tokenizer's memory grows to 60 times its text
PART = 256  # texts, at least, whose vectors are kept in a file until all are there
LOCAL = {"local_files_only": True, "trust_remote_code": False}  # a folder's own code never runs
IN_NF4 = " in NF4"  # of the base that an adapter names
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


class Encoder(NamedTuple):  # a loaded one
    model: torch.nn.Module
    tokenizer: transformers.PreTrainedTokenizerBase
    facts: Facts


def find_encoder(encoder, weights="", files=("*.json", "*.txt", "*.safetensors")):
    """(facts, folder) of a name of ENCODERS, its weights local or from the hub, or of a folder."""
    facts, folder = ENCODERS.get(encoder), Path(weights or encoder)
    if facts and not weights:
        with one_line(f"no {facts.hub} from the hub; pass a folder with its files as --weights"):
            pinned = {"revision": facts.revision, "allow_patterns": list(files)}
            folder = Path(snapshot_download(facts.hub, **pinned))
    if not (folder / "config.json").is_file() or (weights and not facts):
        known = f"a folder with a config.json, or one of {', '.join(ENCODERS)}"
        raise BadInput(f"{encoder}, with files in {folder}: an encoder is {known}")
    return replace(facts or Facts(hub=str(folder)), **read_folder(folder)), folder


def read_folder(folder):
    """The last four of Facts, as sentence-transformers reads them; refuses what is not built in."""
    with one_line(f"{folder} is not a complete folder of sentence-transformers"):
        # 1. Modules: an encoder, a pooling, and perhaps the division by the length
        modules = read_json(folder / "modules.json")
        kinds = [re.sub(r"^sentence_transformers\..*\.", "", m["type"]) for m in modules]
        plain = kinds in (MODULES[:2], MODULES)
        pooling = read_json(folder / modules[1]["path"] / "config.json")
        config, words = (read_json(folder / f"{n}.json") for n in ("config", "tokenizer_config"))
        found = [read_json(path) for name in TEXT_FILES for path in folder.glob(name)]
        said = {key: value for each in found for key, value in each.items()}
        # 2. What they do with a text; older files have a flag for each pooling
        flags = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on]
        mode = pooling.get("pooling_mode", re.sub("pooling_mode_|_tokens", "", " + ".join(flags)))
        positions = config.get("max_position_embeddings", LONGEST)
        length = said.get("max_seq_length") or min(words["model_max_length"], positions)
        default = said.get("default_prompt_name")
        prompt = said["prompts"][default] if default else ""
        # 3. Anything else would silently give other vectors
        for what, refused in (
            (f"modules {', '.join(kinds)}, not {', '.join(MODULES)}", not plain),
            ("an encoder in a subfolder", modules[0]["path"]),
            (f"pooling {mode!r}, not mean or lasttoken", mode not in ("mean", "lasttoken")),
            (f"texts of {length!r} tokens", not isinstance(length, int) or length < 4),
            (f"more than {positions} tokens", isinstance(length, int) and length > positions),
            (f"the prompt {prompt!r}", not isinstance(prompt, str)),
            ("a prompt outside the pooling", prompt and not pooling.get("include_prompt", True)),
            ("a decoder", config.get("is_encoder_decoder")),
            ("do_lower_case", said.get("do_lower_case")),
            ("truncate_dim", said.get("truncate_dim")),
        ):
            if refused:
                raise BadInput(f"{folder} asks for {what}: this is not built in")
    return {"pooling": mode, "max_length": length, "unit": kinds == MODULES, "prompt": prompt}


def weight_files(folder):
    """The safetensors files of a model or an adapter, under the names that transformers knows."""
    index = Path(folder, "model.safetensors.index.json")
    names = ["model.safetensors", "adapter_model.safetensors"]
    names = [name for name in names if Path(folder, name).is_file()]
    if not names and not index.is_file():
        raise BadInput(f"{folder} holds no safetensors file; pass a folder of weights")
    names = names or set(read_json(index, "weight_map")["weight_map"].values())
    return [Path(folder, name) for name in sorted(names)]


@contextlib.contextmanager
def one_line(what):
    """Without the libraries' bars and warnings; an error of theirs becomes one line."""
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings(action="ignore"):
        try:
            yield
        except BadInput:
            raise
        except Exception as error:  # a cut or odd file can raise nearly everything
            raise BadInput(f"{what} ({type(error).__name__}: {str(error)[:300]})") from error


def load_encoder(facts, folder, nf4=False, dtype="float32", adapter=""):
    """The encoder of a folder, frozen and ready to encode; `adapter` is a peft folder."""
    options = LOCAL | {"dtype": dtype}
    with one_line(f"{folder} cannot be loaded"):
        # 1. The files are the pinned ones, and whole
        files = weight_files(folder)
        for digest, name in map(str.split, facts.sha256.strip().splitlines()):
            if sha256(folder / name) != digest:
                how = f"to use it all the same give {folder} as --encoder"
                raise BadInput(f"{folder / name} is not {facts.hub}'s, by its sha256; {how}")
        refuse_changed(folder)
        empty = empty_model(folder, facts, options)
        # 2. The model, a tensor at a time: a file that is mapped, as usual, would stay in memory
        opened = [safe_open(file, "pt", backend="pread") for file in files]
        tensors = {name: file.get_slice(name) for file in opened for name in file.offset_keys()}
        if nf4:
            bits = transformers.BitsAndBytesConfig(**NF4, bnb_4bit_compute_dtype=dtype)
            options["quantization_config"] = bits
        options |= {"config": empty.config, "state_dict": tensors}
        model = type(empty).from_pretrained(None, **options)
        model.config.name_or_path = str(folder)
        model.name_or_path = f"{folder}{IN_NF4 if nf4 else ''}"  # an adapter names its base
        model.pooler = None  # a layer behind the first token, which neither pooling reads
        model = model if nf4 else model.to(device())
        model.config.use_cache = False
        for layer in model.modules():  # trap: on AVX512-BF16 CPUs an eval pass repacks the weights
            if hasattr(layer, "support_avx512bf16_for_cpu"):
                layer.support_avx512bf16_for_cpu = False  # else training fails afterwards
        # 3. Its tokenizer
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
        end = tokenizer("x")["input_ids"][-1]
        if facts.revision and facts.pooling == "lasttoken" and end != tokenizer.pad_token_id:
            raise BadInput(f"{folder}: its tokenizer appends no end token; take a later revision")
    # 4. The adapter
    if adapter:
        with one_line(f"{adapter} does not fit {folder}"):
            model = with_adapter(model, Path(adapter), files, facts, nf4)
    return Encoder(model.eval().requires_grad_(False), tokenizer, facts)


def empty_model(folder, facts, options):
    """The model of a folder, without its numbers (device "meta"); refuses one that lacks a weight.

    Trap: transformers draws what is missing at random, and NF4 takes a tensor of any shape.
    """
    dry = {"device_map": "meta", "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, found = transformers.AutoModel.from_pretrained(folder, **dry, **options)
    model.pooler = None
    wrong = {name for name in found["missing_keys"] if "pooler" not in name}
    wrong |= {name for name, *_ in found["mismatched_keys"]}
    wrong |= {name for name in found["unexpected_keys"] if "layer" in name}  # config.json has fewer
    if wrong:
        raise BadInput(f"{folder}: {len(wrong)} weights do not fit config.json: {min(wrong)} ..")
    if facts.parameters not in (0, model.num_parameters()):
        raise BadInput(f"{folder} has {model.num_parameters():,} parameters: not {facts.hub}'s")
    return model


def refuse_changed(folder):
    """Refuse a folder of contrastive.py whose files are not those that its training.json lists."""
    record = Path(folder, "training.json")
    if record.is_file():
        for name, digest in dict(read_json(record, "files")["files"]).items():
            if sha256(Path(folder, name)) != digest:
                found = f"{folder}/{name} is damaged, or changed: {record} lists another sha256"
                raise BadInput(f"{found}; delete {folder} and run make again")


def with_adapter(model, adapter, base_files, facts, nf4):
    """The model with a peft adapter; refuses one that is missing, misfit, untrained or another's.

    Trap: peft only warns when an adapter's names do not fit, and the model silently stays the base.
    """
    import peft

    if not (adapter / "adapter_config.json").is_file():
        raise BadInput(f"{adapter} holds no adapter; contrastive.py --lora writes one")
    refuse_changed(adapter)
    # 1. The base that it was tuned on, by its record or else by the name that peft keeps
    base, key, record = base_files[0].parent, "base_model_name_or_path", adapter / "training.json"
    said = str(read_json(adapter / "adapter_config.json", key)[key])
    name = said.removesuffix(IN_NF4)
    fits = name == facts.hub or Path(name).resolve() == base.resolve()
    if record.is_file():
        weights = read_json(record, "weights")["weights"]
        fits = weights == {file.name: sha256(file) for file in base_files}
    if not fits:
        raise BadInput(f"{adapter} was tuned on other weights than {base}: on {name}")
    if said != name and not nf4:
        raise BadInput(f"{adapter} was tuned on a base in NF4: add --nf4")
    # 2. Its own weights
    stored = load_file(adapter / "adapter_model.safetensors")
    model = peft.PeftModel.from_pretrained(model, adapter)
    if set(peft.get_peft_model_state_dict(model)) != set(stored):
        raise BadInput(f"{adapter} does not fit {base}: other layer names")
    if not any(t.any() for name, t in stored.items() if "lora_B" in name):
        raise BadInput(f"{adapter}: every lora_B is zero, the adapter was never trained")
    return model


# ------------------------------------------------------------------------------------------------
# Processes: one, or those that torchrun starts
# ------------------------------------------------------------------------------------------------


def start_processes():
    """Join torchrun's group, if there is one; each process takes the GPU of its number."""
    if "LOCAL_RANK" in os.environ:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)  # a thread that outlives Python may abort it
        if dist.get_rank() > 0:  # the first alone shows stages and bars; errors go to stderr
            sys.stdout = io.StringIO()


def rank_and_world():
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gather(own, n):
    """All processes' rows (n, D): process r of W has rows r, r + W, ..; only own carry gradient."""
    rank, world = rank_and_world()
    if world == 1:
        return own
    whole = own.new_zeros(n, own.shape[1])  # (n, D)
    whole[rank::world] = own.detach()
    dist.all_reduce(whole)  # the sum over processes, of which all but one have zeros in a row
    whole[rank::world] = own
    return whole


# ------------------------------------------------------------------------------------------------
# Finished parts: a run after a break encodes the rest
# ------------------------------------------------------------------------------------------------


def parts_of(lengths, budget):
    """Arrays of text numbers, each PART or more: whole batches of one process and all texts."""
    order, parts, start = np.argsort(lengths, kind="stable"), [], 0  # (n,)
    for _, end in batches(lengths[order], budget):
        if end - start >= PART * rank_and_world()[1] or end == len(order):
            parts.append(order[start:end])
            start = end
    return parts


def in_parts(encoder, ids, s, inputs):
    """embed() of all texts, (n, D), in parts; those that an earlier run has finished are read.

    They stand in the folder OUT.parts, which the caller removes. s: the Settings; inputs: the
    sha256 of the files that the vectors come from, by name.
    """
    found, wanted = [], metrics.origin(vars(s), inputs)
    parts = parts_of(np.array([len(x) for x in ids]), s.budget)
    with metrics.progress(len(ids), str(s.out), unit=" rows") as bar:
        for number, rows in enumerate(parts):
            file = Path(f"{s.out}.parts", f"{number:04}.safetensors")
            ours = file.exists() and wanted.items() <= provenance(file).items()
            part = load(file) if ours else None
            if part is None or not np.array_equal(part["rows"], rows):
                part = {"rows": rows, "values": embed(encoder, ids, s.budget, rows)}
                if rank_and_world()[0] == 0:
                    metrics.save(file, part, vars(s), inputs)
            found.append(part["values"])
            release_memory()
            bar.update(len(rows))
    return np.concatenate(found)[np.argsort(np.concatenate(parts))]


def release_memory():
    """Give freed memory back: the C library of Linux keeps it, in pieces too small to use."""
    with contextlib.suppress(AttributeError, TypeError):  # no such library
        ctypes.CDLL(None).malloc_trim(0)


# ------------------------------------------------------------------------------------------------
# The command
# ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    encoder: str  # minilm, mpnet, qwen3-0.6b, qwen3-4b, or a folder (e.g. a tuned one)
    texts: Path  # one document a line
    out: Path  # where the embeddings go, .safetensors
    weights: str = ""  # folder with the named encoder's files; empty: from the hub
    adapter: str = ""  # folder of a peft adapter
    nf4: bool = False  # load the linear layers in 4 bits: NF4 of QLoRA (Dettmers et al. 2023)
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights (NF4: of the arithmetic)
    budget: int = 2048  # padded tokens a batch; a GPU wants 16384 or more


def read_texts(path):
    """The lines of a text file, one document each."""
    if not Path(path).is_file():
        raise BadInput(f"{path} is missing; `python main.py prepare` writes it")
    texts = metrics.read_text(path).removesuffix("\n").split("\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise BadInput(f"{path}: line {number} is empty; every item needs a text")
        if len(text) > LONGEST:
            raise BadInput(f"{path}: line {number} has {len(text):,} characters; {LONGEST:,} fit")
    return texts


def encoded_before(s, inputs):
    """The path of a finished file beside --out with the vectors of the same texts, or None."""
    wanted = metrics.origin(vars(s), inputs)
    for path in sorted(set(s.out.parent.glob("*.safetensors")) - {s.out}):
        with contextlib.suppress(BadInput):  # a file of something else
            made = metrics.provenance(path)
            same = sorted(made["inputs"].values()) == sorted(inputs.values())
            if same and all(made[part] == wanted[part] for part in ("settings", "versions")):
                return path
    return None


def main():
    s = metrics.parse(Settings, __doc__, budget=1)
    start_processes()
    texts = read_texts(s.texts)
    with metrics.stage(s.out, f"embeddings of {s.texts} by {s.encoder}") as figure:
        # 1. The encoder, and the files that its vectors come from
        facts, folder = find_encoder(s.encoder, s.weights)
        files = [s.texts, *weight_files(folder), *(weight_files(s.adapter) if s.adapter else [])]
        inputs = {path.name: sha256(path) for path in files}
        if same := encoded_before(s, inputs):  # without tags, all documents are alike
            figure(f"as in {same}")
            if rank_and_world()[0] == 0:
                metrics.save(s.out, metrics.load(same, names=["embeddings"]), vars(s), inputs)
            return
        encoder = load_encoder(facts, folder, s.nf4, s.dtype, s.adapter)
        # 2. Texts -> token ids
        ids = tokenize(encoder, texts, figure)
        longest = np.argmax([len(x) for x in ids])
        with one_line(f"{folder} cannot encode text line {longest + 1}"):  # if any, then this one
            embed(encoder, ids, s.budget, np.array([longest]))
        # 3. -> vectors (I, D)
        vectors = in_parts(encoder, ids, s, inputs)
        # 4. The file; then its parts may go, as soon as every process has read them
        rank, world = rank_and_world()
        if world > 1:
            dist.barrier()
        if rank == 0:
            metrics.save(s.out, {"embeddings": vectors}, vars(s), inputs)
            metrics.remove_written(f"{s.out}.parts")


if __name__ == "__main__":
    metrics.run(main)
