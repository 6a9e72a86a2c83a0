"""The server's tokenizer against Python's `tokenizers` (and transformers), id for id, over many random texts.

The tokenizers are trained here, in seconds, one of each style; SmolLM2's own is compared too where the model store has it.
"""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

REPOSITORY = Path(__file__).resolve().parents[3]
PROBE = Path(os.environ.get("FLUOROSCOPE_BIN", REPOSITORY / "build/release/bin")) / "tokenizer_probe"
STORE = Path(os.environ.get("FLUOROSCOPE_HOME", Path.home() / ".cache/fluoroscope")) / "models"

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<s>", "</s>", "<unk>"]
CORPUS = [path.read_text() for path in sorted(REPOSITORY.glob("proto/fluoroscope/v1/*.proto"))] + [(REPOSITORY / "LICENSE").read_text()]


def train(tokenizer, trainer):
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def gpt2_style():
    """Byte-level BPE, no BOS, as GPT-2 and SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(tokenizer, trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIALS[:2], initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_tokens([AddedToken("<|user|>", normalized=False), "  "])
    return tokenizer, {"bos_token": "<|endoftext|>"}


def llama3_style():
    """Byte-level BPE split by a Unicode regex (onig), with a BOS from a template, after NFC."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    split = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train(tokenizer, trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIALS[:4], initial_alphabet=alphabet, show_progress=False))
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])]
    )
    return tokenizer, {"bos_token": {"content": "<s>", "__type": "AddedToken"}}


def llama2_style():
    """SentencePiece BPE with byte fallback: spaces are U+2581, unknown characters are bytes."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Metaspace()
    train(base, trainers.BpeTrainer(vocab_size=700, show_progress=False))
    model = json.loads(base.to_str())["model"]
    pieces = SPECIALS[2:] + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += [token for token in model["vocab"] if token not in pieces]
    vocabulary = {token: index for index, token in enumerate(pieces)}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS[2:]])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return tokenizer, {"bos_token": "<s>"}


STYLES = {"gpt2": gpt2_style, "llama3": llama3_style, "llama2": llama2_style}


class Probe:
    """The server's tokenizer class in a small process."""

    def __init__(self, directory):
        self.process = subprocess.Popen([PROBE, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=30) == 0


@pytest.fixture(scope="module", params=[*STYLES, "smollm2-135m"])
def pair(request, tmp_path_factory):
    """(Python's tokenizer, ours, the BOS id), over the same file."""
    if not PROBE.exists():
        pytest.fail(f"{PROBE} is missing: build the target tokenizer_probe")
    if request.param in STYLES:
        directory = tmp_path_factory.mktemp(request.param)
        tokenizer, config = STYLES[request.param]()
        tokenizer.enable_truncation(5)
        tokenizer.enable_padding(length=7)
        tokenizer.save(str(directory / "tokenizer.json"))
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    else:
        directory = STORE / request.param
        if not (directory / "tokenizer.json").exists():
            pytest.skip(f"{directory} is not there: python -m fluoroscope.fetch {request.param}")
        config = json.loads((directory / "tokenizer_config.json").read_text())
    reference = Tokenizer.from_file(str(directory / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    bos = config["bos_token"]
    probe = Probe(directory)
    yield reference, probe, reference.token_to_id(bos["content"] if isinstance(bos, dict) else bos)
    probe.close()


def random_texts(count, seed):
    """Words, white space of all kinds, scripts, emoji, combining marks, private and unassigned characters, and text that looks special."""
    generator = random.Random(seed)
    scraps = [*SPECIALS, "<|user|>", "<|endoftext", "|>", "<s", "[INST]", "▁", "<0x0A>", "'ll", "e\u0301", "ﬁ", "👩‍👩‍👧", "\u200b", "\u00a0",
              "\n", "\r\n", "\t", "  ", "   ", " ", " ", " ", "\x00", "中文", "עברית", "हिन्दी", "\ufeff", "1234567", "3.14", "don't"]
    words = " ".join(CORPUS).split()
    for _ in range(count):
        parts = []
        for _ in range(generator.randrange(12)):
            kind = generator.randrange(4)
            if kind == 0:
                parts.append(generator.choice(scraps))
            elif kind == 1:
                parts.append(chr(generator.choice([generator.randrange(0x20, 0x250), generator.randrange(0xE000, 0x110000)])))
            else:
                parts.append(generator.choice(["", " "]) + generator.choice(words))
        yield "".join(parts)


def expected(reference, text, bos, parse, bos_id):
    reference.encode_special_tokens = not parse
    encoding = reference.encode(text, add_special_tokens=bos != "never")
    ids, added = list(encoding.ids), list(encoding.special_tokens_mask)
    in_front = bool(ids) and added[0] == 1 and ids[0] == bos_id
    if bos == "always":
        if not ids or ids[0] != bos_id:
            return [bos_id, *ids], True
        if in_front and ids[1:2] == [bos_id]:
            return ids[1:], False
    return ids, in_front


@pytest.mark.parametrize("parse", [False, True])
@pytest.mark.parametrize("bos", ["default", "never", "always"])
def test_the_same_ids_as_python(pair, bos, parse):
    reference, probe, bos_id = pair
    seed = {"default": 1, "never": 2, "always": 3}[bos] * 10 + parse
    for text in ["", *random_texts(400, seed)]:
        answer = probe.ask(text=text, bos=bos, parse=parse)
        ids, bos_added = expected(reference, text, bos, parse, bos_id)
        assert answer == {"ids": ids, "bos_added": bos_added}, repr(text)


@pytest.mark.parametrize("skip", [False, True])
def test_the_same_text_as_python(pair, skip):
    reference, probe, _ = pair
    generator = random.Random(5)
    size = reference.get_vocab_size()
    for _ in range(200):
        ids = [generator.randrange(size) for _ in range(generator.randrange(12))]
        assert probe.ask(ids=ids, skip=skip)["text"] == reference.decode(ids, skip_special_tokens=skip), ids


def test_labels_put_together_are_the_text(pair):
    """A label keeps its leading space, so the labels of an ASCII text are its pieces."""
    reference, probe, _ = pair
    for text in ["When John and Mary went to the shops,\n John gave the bag to", "def f(x):\n    return  x", "The capital of France is"]:
        ids = probe.ask(text=text, bos="never", parse=False)["ids"]
        joined = "".join(probe.ask(ids=ids, skip=False)["tokens"])
        assert joined.removeprefix(" ") == text


def test_smollm2_as_transformers_has_it():
    directory = STORE / "smollm2-135m"
    if not (directory / "tokenizer.json").exists():
        pytest.skip(f"{directory} is not there: python -m fluoroscope.fetch smollm2-135m")
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(directory)
    probe = Probe(directory)
    for text in ["When John and Mary went to the shops, John gave the bag to", "<|im_start|>user\nhi<|im_end|>", "héllo\n\n  wörld 🙂"]:
        answer = probe.ask(text=text, bos="default", parse=True)
        assert answer == {"ids": reference(text)["input_ids"], "bos_added": False}
        labels = probe.ask(ids=answer["ids"], skip=False)["tokens"]
        assert labels == [reference.decode([token]) for token in answer["ids"]]
    probe.close()
