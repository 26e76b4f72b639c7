"""Random encoders of some kilobytes and ratings to tune them on: tests download nothing."""

import json

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import metrics

QWEN_4B = {  # from its config.json
    "vocab_size": 151_665,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
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
        "max_position_embeddings": 8192,
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


def save_pooling(folder, width, mode="lasttoken", length=8192):
    """What sentence-transformers reads beside the weights: one pooling of several, unit length."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"word_embedding_dimension": width}
    for name in ("mean_tokens", "cls_token", "lasttoken"):
        pooling[f"pooling_mode_{name}"] = name == mode
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))


def save_encoder(folder, seed=0):
    """The folder, filled with model and tokenizer."""
    torch.manual_seed(seed)
    transformers.Qwen3Model(config()).save_pretrained(folder)
    save_tokenizer(folder)
    save_pooling(folder, config().hidden_size)
    return folder


def save_bert(folder, seed=0):
    """The same for a BERT of six layers, which has a pooler; its embedding is the mean."""
    return save_small(folder, transformers.BertConfig, 6, seed)


def save_small(folder, config_class, layers=2, seed=0):
    """The same for any architecture whose configuration has BERT's names."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 257, "hidden_size": 16, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": 2, "intermediate_size": 16, "pad_token_id": 256}
    transformers.AutoModel.from_config(config_class(**shape)).save_pretrained(folder)
    save_tokenizer(folder)
    save_pooling(folder, 16, "mean_tokens", length=256)
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
        "liked": np.array(4.0),
        "highest": np.array(5.0),
        "user_ids": np.arange(n_users),
    }
    metrics.save(folder / "ratings.safetensors", arrays, {})
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return folder / "ratings.safetensors", folder / "texts.txt"
