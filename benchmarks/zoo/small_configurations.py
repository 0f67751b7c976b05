"""Small configurations: of every number in one that is known to be a size, a small one."""

from typing import Any

from benchmarks.zoo.judge import CLASSES

WORDS = 99
_LAYERS, _HEADS, _WIDTH = 2, 4, 32

# Names to small values, where a configuration has them.
_SIZES: dict[str, Any] = dict.fromkeys(
    (
        "num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers",
        "n_layers", "num_encoder_layers", "num_decoder_layers", "depth", "num_blocks",
        "encoder_num_layers", "num_block_layers", "num_hidden_groups_", "text_encoder_layers",
    ),
    _LAYERS,
) | dict.fromkeys(
    (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
        "decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads",
    ),
    _HEADS,
) | dict.fromkeys(
    (
        "hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size",
        "word_embed_proj_dim", "emb_dim", "embedding_dim", "projection_dim",
        "pooler_hidden_size", "d_embed", "neck_hidden_size", "true_hidden_size",
        "intra_bottleneck_size", "text_embed_dim", "entity_emb_size", "hidden_dim",
        "output_hidden_size", "conv_hidden_size", "attention_hidden_size", "out_hidden_size",
        "conv_bias_size", "classifier_proj_size", "hidden_size_per_layer_input",
    ),
    _WIDTH,
) | dict.fromkeys(
    (
        "intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "d_inner",
        "ffn_hidden_size", "moe_intermediate_size", "shared_expert_intermediate_size",
        "n_inner", "intermediate_size_mlp", "hidden_dim_ffn", "mlp_dim",
        "ffn_intermediate_size",
    ),
    48,
) | dict.fromkeys(
    (
        "num_key_value_heads", "num_kv_heads", "multi_query_group_num",
    ), 2
) | dict.fromkeys(
    (
        "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts",
    ), 4
) | dict.fromkeys(
    (
        "num_experts_per_tok", "top_k_experts", "moe_k", "n_shared_experts_",
    ), 2
) | dict.fromkeys(
    (
        "n_group", "topk_group", "n_groups_",
    ), 1
) | dict.fromkeys(
    (
        "head_dim", "d_kv", "attention_head_size", "v_head_dim", "kv_channels", "mamba_d_head",
        "linear_key_head_dim", "linear_value_head_dim", "qk_nope_head_dim", "global_head_dim",
    ), 8
) | dict.fromkeys(
    (
        "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len",
        "max_target_positions", "max_source_positions", "max_2d_position_embeddings",
        "seq_length", "max_sequence_length",
    ), 64
) | {
    "vocab_size": WORDS, "image_size": 32, "patch_size": 8, "num_labels": CLASSES,
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "first_k_dense_replace": 1,
    "num_frames": 4, "frames_per_clip": 4, "tubelet_size": 2, "num_mel_bins": 16, "max_length":
    64, "vocab_size_per_layer_input": WORDS, "sliding_window": 8, "attention_window": 4,
    "block_size": 4, "num_random_blocks": 1, "entity_vocab_size": 20, "type_vocab_size_": 2,
    "num_landmarks": 4, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
    "mamba_n_heads": 8, "mamba_d_state": 8, "mamba_expand": 2, "state_size": 8, "chunk_size": 4,
    "n_mamba_heads": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "num_memory_blocks": 1, "initializer_range": 0.3, "layer_scale_init_value": 0.1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "sep_token_id": 2, "cls_token_id": 1, "eos_token_id_": 2,
}  # fmt: skip


def smaller(cls: Any, **given: Any) -> Any:
    """A small configuration of a class."""
    plain = cls()
    values = {name: value for name, value in _fields(plain).items() if not name.startswith("_")}
    options: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("transformers_version", "architectures", "dtype", "torch_dtype"):
            continue
        if hasattr(value, "to_dict"):
            options[name] = smaller(type(value)).to_dict()
        elif name in _SIZES and _is_size(name, value):
            options[name] = _SIZES[name]
        elif name == "layer_types" and value:
            options[name] = _few(value)
    if options.get("layer_types") is not None and "num_hidden_layers" in options:
        options["num_hidden_layers"] = len(options["layer_types"])
    if "kv_lora_rank" in options and "num_key_value_heads" in options:
        options["num_key_value_heads"] = _HEADS  # latent attention has one of each
    options |= SPECIAL.get(plain.model_type, {}) | given
    options.setdefault("num_labels", CLASSES)
    if "pad_token_id" not in options:
        options["pad_token_id"] = 0
    return cls(**options)


def _fields(config: Any) -> dict[str, Any]:
    found = dict(vars(config))
    names = {v: k for k, v in getattr(config, "attribute_map", {}).items()}
    return {name: value for name, value in found.items() if name not in names.keys() - found.keys()}


def _is_size(name: str, value: Any) -> bool:
    if name.endswith(("token_id",)):
        return True
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
        value is None and name in ("head_dim", "num_key_value_heads", "intermediate_size")
        and name != "head_dim"
    )  # fmt: skip


def _few(kinds: list[str]) -> list[str]:
    """As many as there are layers, of each kind one if they suffice."""
    distinct = list(dict.fromkeys(kinds))
    return (distinct + distinct)[:_LAYERS]


# What the general way does not make, by type of configuration.
SPECIAL: dict[str, dict[str, Any]] = {}
