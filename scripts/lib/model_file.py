"""Write a tiny Llama with random weights as a GGUF file: model_file.py PATH [TEXT].

What it says is noise, but its prompts are computed and cached like any other model's. A token is
a byte, so prompts are as long as their texts; with the path of a text, the words that are frequent
there, and their beginnings, are tokens too. It always writes the same file.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import gguf  # type: ignore[import-not-found, unused-ignore]
import numpy as np  # type: ignore[import-not-found, unused-ignore]

WIDTH, HIDDEN, HEADS, CONTEXT = 64, 128, 1, 1 << 15

# GPT-2 spells a byte as one printable character: itself, or one from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_SPELLING = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + place) for place, byte in enumerate(_OTHERS)
}
_BEGIN, _END = 256, 258
# The last one is there because llama.cpp does not load a vocabulary without merges.
TOKENS = [*(_SPELLING[byte] for byte in range(256)), "<|bos|>", "<|im_start|>", "<|im_end|>", "zq"]
MERGES = ["z q"]
WORDS = 4000  # tokens

# A prompt begins with the tools and grows at its end only.
TEMPLATE = (
    "{%- if tools %}<|im_start|>tools\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content if message.content else '' }}"
    "{%- for call in message.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|im_end|>\n"
    "{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_model(path: str, text: str = "") -> None:
    """Write the file; the frequent words of the text are tokens."""
    merges = [*words_in(text), *MERGES]
    tokens = [*dict.fromkeys([*TOKENS, *(merge.replace(" ", "") for merge in merges)])]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-random")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_vocabulary(writer, tokens, merges)
    _add_weights(writer, len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def words_in(text: str) -> list[str]:
    """Return the merges that make tokens of the frequent words of a text, with a space before."""
    words = Counter(re.findall(r" ?[A-Za-z]+", text))
    spelled = (
        "".join(_SPELLING[byte] for byte in word.encode()) for word, _ in words.most_common()
    )
    merges = (f"{word[:at]} {word[at]}" for word in spelled for at in range(1, len(word)))
    return list(dict.fromkeys(merges))[:WORDS]


def _add_vocabulary(writer: gguf.GGUFWriter, tokens: list[str], merges: list[str]) -> None:
    control = ("<|bos|>", "<|im_start|>", "<|im_end|>")
    kinds = gguf.TokenType
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.CONTROL if t in control else kinds.NORMAL for t in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(_BEGIN)
    writer.add_eos_token_id(_END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _add_weights(writer: gguf.GGUFWriter, tokens: int) -> None:
    random = np.random.default_rng(1)

    def matrix(rows: int, columns: int) -> np.ndarray:
        weights: np.ndarray = random.standard_normal((rows, columns)) / columns**0.5
        return weights.astype(np.float32)

    # One feature is the same for every token, so that only letters come out: where the first token
    # is half a UTF-8 character, llama.cpp leaves out message_start, and with it the usage.
    embedding, output = matrix(tokens, WIDTH), matrix(tokens, WIDTH)
    embedding[:, 0] = 8
    output[:, 0] = [4 if ord("a") <= token <= ord("z") else -4 for token in range(tokens)]
    ones = np.ones(WIDTH, np.float32)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("blk.0.attn_norm.weight", ones)
    writer.add_tensor("blk.0.ffn_norm.weight", ones)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", matrix(WIDTH, WIDTH))
    for name in ("ffn_gate", "ffn_up"):
        writer.add_tensor(f"blk.0.{name}.weight", matrix(HIDDEN, WIDTH))
    writer.add_tensor("blk.0.ffn_down.weight", matrix(WIDTH, HIDDEN))


if __name__ == "__main__":
    write_model(sys.argv[1], "".join(Path(name).read_text("utf-8") for name in sys.argv[2:]))
