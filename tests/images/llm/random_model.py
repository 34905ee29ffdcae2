"""Write a language model of 0.5 MB whose weights are random: `python3 random_model.py MODEL.gguf`."""

import sys

import numpy
from gguf import GGUFWriter, TokenType

WIDTH, HEADS, LAYERS, HIDDEN = 64, 4, 2, 128

tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(f"▁word{n}" for n in range(256))]
kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256, *[TokenType.NORMAL] * 256]
draw = numpy.random.default_rng(7)

writer = GGUFWriter(sys.argv[1], "llama")
writer.add_context_length(512)
writer.add_embedding_length(WIDTH)
writer.add_block_count(LAYERS)
writer.add_feed_forward_length(HIDDEN)
writer.add_head_count(HEADS)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_tokenizer_model("llama")
writer.add_token_list(tokens)
writer.add_token_scores([0.0] * len(tokens))
writer.add_token_types(kinds)
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)


def add(name: str, *shape: int) -> None:
    """Add a tensor of random weights."""
    writer.add_tensor(name, draw.normal(0, 0.1, shape).astype(numpy.float32))


for layer in range(LAYERS):
    for name, *shape in (
        ("attn_norm", WIDTH),
        ("ffn_norm", WIDTH),
        ("attn_q", WIDTH, WIDTH),
        ("attn_k", WIDTH, WIDTH),
        ("attn_v", WIDTH, WIDTH),
        ("attn_output", WIDTH, WIDTH),
        ("ffn_gate", HIDDEN, WIDTH),
        ("ffn_up", HIDDEN, WIDTH),
        ("ffn_down", WIDTH, HIDDEN),
    ):
        add(f"blk.{layer}.{name}.weight", *shape)
add("token_embd.weight", len(tokens), WIDTH)
add("output_norm.weight", WIDTH)
add("output.weight", len(tokens), WIDTH)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
