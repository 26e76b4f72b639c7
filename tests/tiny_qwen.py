"""A random Qwen3 encoder of some kilobytes and ratings to tune it on: tests download nothing."""

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import metrics

END = "<|endoftext|>"
TEXTS = [
    f"{kind} {word}"
    for kind in ("quiet drama", "loud war film with many tags and a long title", "noir", "comedy")
    for word in ("one", "two", "three", "four", "five", "six")
]


def config(**changes):
    """Qwen3 in small: 2 layers, 64 dimensions, 4 heads on 2 key-value heads of 16."""
    shape = {
        "vocab_size": 257,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "pad_token_id": 256,
    }
    return transformers.Qwen3Config(**(shape | changes))


def save_tokenizer(folder):
    """Bytes as tokens; the end token is appended and, as in the real one, pads as well."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*alphabet, END])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocab[END])]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END
    ).save_pretrained(folder)


def save_encoder(folder, seed=0):
    """The folder, filled with model and tokenizer."""
    torch.manual_seed(seed)
    transformers.Qwen3Model(config()).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_data(folder, seed=0, n_users=8):
    """(ratings file, texts file): every user rates all items, high within one quarter of them."""
    rng = np.random.default_rng(seed)
    n = len(TEXTS)
    users = np.repeat(np.arange(n_users, dtype=np.int32), n)  # (N,)
    items = np.concatenate([rng.permutation(n) for _ in range(n_users)]).astype(np.int32)  # (N,)
    liked = items // (n // 4) == users % 4  # (N,)
    ratings = np.where(liked, 4.5, 2.0).astype(np.float32)  # (N,)
    arrays = {
        "train_users": users,
        "train_items": items,
        "train_ratings": ratings,
        "valid": np.zeros(len(users), dtype=bool),
    }
    metrics.save(folder / "ratings.safetensors", arrays, {})
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return folder / "ratings.safetensors", folder / "texts.txt"
