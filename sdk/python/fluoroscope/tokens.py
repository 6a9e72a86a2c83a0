"""A model's tokens: the part of a Model that asks its tokenizer."""

from __future__ import annotations

from typing import cast

from fluoroscope._proto.v1 import models_pb2, plan_pb2
from fluoroscope.client import Client
from fluoroscope.selections import Bos, Prompts, as_prompts, prompt_messages


class Tokens:
    """See Model."""

    name: str
    _client: Client

    def tokenize(self, prompts: Prompts, *, bos: Bos = None, parse_special_tokens: bool = False) -> list[int] | list[list[int]]:
        """The token ids that a run of these prompts would use: one list, or one per prompt for a list of prompts.

        Args:
          bos: None or "default": what the tokenizer does by default; "always" (True) or "never" (False).
          parse_special_tokens: special tokens written in the text, such as "<|im_start|>", become their ids; else they are plain text.
        """
        rows, single = self._rows(prompts, bos, parse_special_tokens)
        ids = [list(row.token_ids) for row in rows]
        return ids[0] if single else ids

    def to_str_tokens(self, prompts: Prompts, *, bos: Bos = None, parse_special_tokens: bool = False) -> list[str] | list[list[str]]:
        """The same as text, each token decoded on its own: one list, or one per prompt for a list of prompts."""
        rows, single = self._rows(prompts, bos, parse_special_tokens)
        texts = [list(row.tokens) for row in rows]
        return texts[0] if single else texts

    def to_single_token(self, text: str) -> int:
        """The id of a text that is exactly one token; ValueError, with its pieces, when it is not."""
        ids = cast("list[int]", self.tokenize(text, bos="never"))
        if len(ids) != 1:
            raise ValueError(f"{text!r} is {len(ids)} tokens, not one: {self.to_str_tokens(ids)}")
        return ids[0]

    def detokenize(self, ids: Prompts, *, skip_special_tokens: bool = False) -> str | list[str]:
        """The text of token ids: one text, or one per list for a list of lists."""
        rows, single = as_prompts(ids)
        messages = []
        for row in rows:
            if not isinstance(row, list):
                raise ValueError("detokenize takes token ids, not text")
            messages.append(plan_pb2.TokenIds(ids=row))
        request = models_pb2.DetokenizeRequest(model=self.name, rows=messages, skip_special_tokens=skip_special_tokens)
        texts = list(self._client.unary("/fluoroscope.v1.Models/Detokenize", request, models_pb2.DetokenizeReply).texts)
        return texts[0] if single else texts

    def differing_positions(
        self, clean: Prompts, corrupt: Prompts, *, bos: Bos = None, parse_special_tokens: bool = False
    ) -> list[int] | list[list[int]]:
        """The positions at which two prompts have different tokens, ascending. For two lists of prompts: one list per pair.

        Raises:
          ValueError: the prompts have different numbers of tokens, so that a position does not mean the same in both.
        """
        rows, single = as_prompts(clean)
        others, other_single = as_prompts(corrupt)
        if (len(rows), single) != (len(others), other_single):
            raise ValueError(f"clean has {len(rows)} prompts and corrupt {len(others)}; give one each, or two lists of the same length")
        reply, _ = self._rows([*rows, *others], bos, parse_special_tokens)
        found = []
        for number, (a, b) in enumerate(zip(reply[: len(rows)], reply[len(rows) :], strict=True)):
            if len(a.token_ids) != len(b.token_ids):
                raise ValueError(_unequal(a, b, None if single else number))
            found.append([i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=True)) if x != y])
        return found[0] if single else found

    def _rows(self, prompts: Prompts, bos: Bos, parse_special_tokens: bool) -> tuple[list[models_pb2.TokenizeReply.Row], bool]:
        rows, single = as_prompts(prompts)
        request = models_pb2.TokenizeRequest(model=self.name, prompts=prompt_messages(rows, bos, parse_special_tokens))
        return list(self._client.unary("/fluoroscope.v1.Models/Tokenize", request, models_pb2.TokenizeReply).rows), single


def _unequal(a: models_pb2.TokenizeReply.Row, b: models_pb2.TokenizeReply.Row, number: int | None) -> str:
    first = next((i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=False)) if x != y), min(len(a.token_ids), len(b.token_ids)))
    which = "the prompts" if number is None else f"the prompts of pair {number}"
    shown = [" | ".join(row.tokens[max(0, first - 2) : first + 4]) for row in (a, b)]
    return (
        f"{which} have {len(a.token_ids)} and {len(b.token_ids)} tokens, so a position does not mean the same in both. They part at position {first}:\n"
        f"  clean:   … {shown[0]} …\n  corrupt: … {shown[1]} …\n"
        "Change one so that they have the same number of tokens (names of one token each: model.to_str_tokens shows them), or patch with explicit "
        "`positions` and `source_positions`."
    )
