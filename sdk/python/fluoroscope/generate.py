"""Generation: the request, and the tokens as they come in."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import cast

import numpy as np
from google.protobuf.message import DecodeError

from fluoroscope._proto.v1 import inference_pb2, tensor_pb2
from fluoroscope.assemble import Assembler
from fluoroscope.cache import Activation, ActivationCache, TopKValues
from fluoroscope.errors import DataLossError
from fluoroscope.names import HookKey, hook_name
from fluoroscope.order import arrange, lengths
from fluoroscope.ragged import Ragged
from fluoroscope.requests import Plan
from fluoroscope.results import Provenance, Timing
from fluoroscope.wire import ReplyReader, parse_chunk, parse_pack, widen_bf16

METHOD = "/fluoroscope.v1.Inference/Generate"

_REASONS = {
    inference_pb2.FINISH_REASON_LENGTH: "length",
    inference_pb2.FINISH_REASON_EOS: "eos",
    inference_pb2.FINISH_REASON_STOP: "stop",
}


@dataclass(frozen=True)
class LikelyToken:
    """One of the most likely tokens at a place, with its log-probability under the model's own distribution."""

    text: str
    id: int
    logprob: float


@dataclass(frozen=True)
class GeneratedToken:
    """A token that the model has generated.

    Attributes:
      text: what it adds to the text. A character whose bytes lie in several tokens comes with the last of them; a token that ends the sequence has none.
      id: its token id.
      logprob: its log-probability under the model's own distribution: of the logits as they are, without temperature, penalty or filters.
      row, sample: which prompt's, and which of its continuations.
      index: its number in the continuation, from 0; its position is the prompt's length + index.
      top: the most likely tokens there, best first, if `top_logprobs` asked for them.
      finish_reason: with the last token of a continuation "length", "eos" or "stop"; else None.
      stop: the stop string that ended it, else None. Texts end before it.
    """

    text: str
    id: int
    logprob: float
    row: int
    sample: int
    index: int
    top: tuple[LikelyToken, ...] = ()
    finish_reason: str | None = None
    stop: str | None = None


class Generation(Iterator[GeneratedToken]):
    """Tokens as the server makes them: `for token in generation: print(token.text, end="")`.

    Several prompts, or samples, come mixed: `token.row` and `token.sample` say which is which. Leaving the loop early, `close()` or a `with` block cancels the
    call, and the server stops. What needs the whole (`text`, `texts`, `ids`, `timing`, `cache`, `generated`) first reads to the end.

    Attributes:
      prompt_ids: the token ids of each prompt as it ran.
      provenance: what the tokens came from.
    """

    def __init__(self, plan: Plan, request: inference_pb2.GenerateRequest, messages: Generator[bytes, None, None], layers: int) -> None:
        """For the package's own use. Waits until the server has begun, so that what is wrong with the request is said here."""
        self._request = request
        self._single = plan.single
        self._layers = layers
        self._messages = messages
        self._reader = _Reader(plan.rows)
        self._waiting: list[GeneratedToken] = []
        self._rows: list[list[list[GeneratedToken]]] = [[[] for _ in range(request.samples or 1)] for _ in range(plan.rows)]
        self._ended = False
        try:
            while self._reader.header is None and not self._ended:
                self._read()
        except BaseException:
            messages.close()
            raise
        if self._reader.header is None:
            raise DataLossError("the reply ended without its header")
        header = self._reader.header
        self.prompt_ids = [list(row.token_ids) for row in header.rows[: plan.rows]]
        self.provenance = Provenance.of(header.provenance)

    def __next__(self) -> GeneratedToken:
        while not self._waiting:
            if self._ended:
                raise StopIteration
            self._read()
        return self._waiting.pop(0)

    @property
    def tokens(self) -> list[list[list[GeneratedToken]]]:
        """All tokens: [prompt][sample][index]."""
        self._read_all()
        return self._rows

    @property
    def ids(self) -> list[list[list[int]]]:
        """The generated token ids: [prompt][sample][index]."""
        return [[[token.id for token in sample] for sample in row] for row in self.tokens]

    @property
    def texts(self) -> list[list[str]]:
        """The generated texts, without the prompts: [prompt][sample]."""
        return [["".join(token.text for token in sample) for sample in row] for row in self.tokens]

    @property
    def text(self) -> str:
        """The generated text of a single prompt and sample, without the prompt."""
        if len(self._rows) != 1 or len(self._rows[0]) != 1:
            raise ValueError(f"there are {len(self._rows)} prompts with {len(self._rows[0])} samples each; .texts has them all")
        return self.texts[0][0]

    @property
    def timing(self) -> Timing:
        """Where the time went; `run_ms` are the turns of this call, which also serve others."""
        self._read_all()
        return Timing.of(cast(inference_pb2.ForwardSummary, self._reader.summary))

    @property
    def cache(self) -> ActivationCache:
        """What was captured of the prompts, as run_with_cache gives it, with a batch axis."""
        self._read_all()
        assembler = self._reader.assembler
        header = cast(inference_pb2.ForwardHeader, self._reader.header)
        entries = {name: assembler.entry(name) for name in assembler.names()}
        return ActivationCache(entries, header.rows[: len(self._rows)], self.provenance, self._layers)

    def generated(self, key: HookKey, row: int = 0, sample: int = 0) -> Activation:
        """What was captured of a continuation's tokens: the hook point's axes, with its tokens along the position axis.

        Token i is at position i; the token that ends a continuation was not run, so there is one less than there are tokens. Patterns and scores are a
        Ragged of [head, 1, key], because every token sees one key more.
        """
        self._read_all()
        return self._reader.generated(hook_name(key, self._layers), row, sample)

    def close(self) -> None:
        """Ends the call. May be called again, and after the end."""
        self._ended = True
        self._messages.close()

    def _read_all(self) -> None:
        while not self._ended:
            self._read()
        if self._reader.summary is None:
            raise ValueError("this generation was closed before its end")

    def _read(self) -> None:
        message = next(self._messages, None)
        if message is None:
            self._ended = True
            self._reader.finish()
            prompts = self._request.prompts[: len(self._rows)]
            arrange(self._reader.all_tensors(), self._request.captures, None, lengths(prompts, self._reader.header or inference_pb2.ForwardHeader()))
            return
        for token in self._reader.take(message):
            made = self._token(token)
            if made.row >= len(self._rows) or made.sample >= len(self._rows[made.row]) or made.index != len(self._rows[made.row][made.sample]):
                raise DataLossError(f"token {made.index} of row {made.row}, sample {made.sample} came out of order")
            self._rows[made.row][made.sample].append(made)
            self._waiting.append(made)

    def _token(self, token: inference_pb2.GeneratedToken) -> GeneratedToken:
        return GeneratedToken(
            token.text, token.id, token.logprob, token.row, token.sample, token.index,
            tuple(LikelyToken(likely.text, likely.id, likely.logprob) for likely in token.top),
            _REASONS.get(token.finish_reason) if token.HasField("finish_reason") else None,
            self._request.stop[token.stop] if token.HasField("stop") else None,
        )  # fmt: skip

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        shown = ", ".join(repr("".join(token.text for token in sample)) for row in self._rows for sample in row)
        return f"Generation({shown}{'' if self._ended else ', …'})"


class _Reader(ReplyReader):
    """A reply with tokens between its tensors."""

    def __init__(self, rows: int) -> None:
        self.assembler = Assembler(rows)
        self._of_tokens: dict[tuple[str, str, int, int], list[tuple[tensor_pb2.TensorHeader, np.ndarray]]] = {}
        super().__init__(self._place)

    @property
    def header(self) -> inference_pb2.ForwardHeader | None:
        return self._header

    @property
    def summary(self) -> inference_pb2.ForwardSummary | None:
        return self._summary

    def take(self, message: bytes) -> list[inference_pb2.GeneratedToken]:
        """The tokens that the message brings."""
        if message and message[0] == 0x32:  # field 6, length-delimited: the token
            try:
                return [inference_pb2.GenerateReply.FromString(message).token]
            except DecodeError as error:
                raise DataLossError(f"a message of {len(message)} bytes is not a GenerateReply: {error}") from error
        # The rest is as in a ForwardReply, with the same field numbers.
        self.feed(message)
        return []

    def all_tensors(self) -> list[tuple[tensor_pb2.TensorHeader, np.ndarray]]:
        """Of the prompts and of the generated tokens."""
        return [*self.assembler.tensors(), *(pair for pairs in self._of_tokens.values() for pair in pairs)]

    def generated(self, name: str, row: int, sample: int) -> Activation:
        if (name, "values", row, sample) in self._of_tokens:
            return TopKValues(self._joined(name, "values", row, sample), self._joined(name, "indices", row, sample))
        return self._joined(name, "", row, sample)

    def _joined(self, name: str, part: str, row: int, sample: int) -> np.ndarray | Ragged:
        if (name, part, row, sample) not in self._of_tokens:
            there = ", ".join(sorted({f"{key[0]} of row {key[2]}, sample {key[3]}" for key in self._of_tokens})) or "nothing"
            raise KeyError(f"{name} of row {row}, sample {sample} was not captured at generated tokens; there is {there}")
        tensors = sorted(self._of_tokens[name, part, row, sample], key=lambda pair: pair[0].positions[0])
        arrays = [widen_bf16(array) if header.dtype == tensor_pb2.DTYPE_BF16 else array for header, array in tensors]
        per_key = name.endswith(("attn.hook_pattern", "attn.hook_attn_scores"))
        if per_key and len({array.shape for array in arrays}) > 1:
            return Ragged(arrays)
        return np.concatenate(arrays, axis=1 if per_key else 0)

    def _place(self, header: tensor_pb2.TensorHeader, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        if not header.HasField("sample"):
            return self.assembler.allocate(header, dtype, shape)
        array = np.empty(shape, dtype)
        self._of_tokens.setdefault((header.name, header.part, header.row, header.sample), []).append((header, array))
        return array
