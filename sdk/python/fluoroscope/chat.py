"""Chat templates: what transformers' `apply_chat_template` does, without transformers.

A template is a Jinja2 program that comes with the model, so it runs in Jinja2's sandbox, in the environment that transformers gives it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from fluoroscope._proto.v1 import models_pb2
from fluoroscope.errors import FailedPreconditionError

# {"role": "user", "content": "Hello"}; a template may know further keys.
Message = Mapping[str, Any]


class ChatTemplate:
    """A model's template. Made from what the server says of the model; renders without the server."""

    def __init__(self, model: str, text: str, special_tokens: Mapping[str, str]) -> None:
        self._model = model
        self._text = text
        self._special_tokens = dict(special_tokens)

    @classmethod
    def of(cls, model: str, reply: models_pb2.GetModelReply) -> ChatTemplate:
        return cls(model, reply.chat_template.text, reply.chat_template.special_tokens)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The text of a conversation.

        Raises:
          FailedPreconditionError: the model has no chat template.
          ValueError: the template refuses the messages, or they are none.
        """
        import jinja2

        if not self._text:
            raise FailedPreconditionError(f"{self._model} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)")
        if isinstance(messages, Mapping | str) or not all(isinstance(message, Mapping) and "role" in message for message in messages):
            raise ValueError('messages is a list of {"role": "user", "content": "..."}')
        if not messages:
            raise ValueError("messages is empty: give at least one")
        plain = [dict(message) for message in messages]
        names = {"messages": plain, "add_generation_prompt": add_generation_prompt, "tools": None, "documents": None} | self._special_tokens | variables
        try:
            return self._compiled.render(**names)
        except jinja2.exceptions.TemplateError as error:
            raise ValueError(f"the chat template of {self._model} refuses these messages: {error}") from error

    @cached_property
    def _compiled(self) -> Any:
        import jinja2
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(jinja2.ext.Extension):
            """`{% generation %}` marks what an assistant says, for training; here it is only passed on."""

            tags = {"generation"}

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return jinja2.nodes.Scope(body).set_lineno(line)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            return environment.from_string(self._text)
        except jinja2.exceptions.TemplateError as error:
            raise FailedPreconditionError(f"the chat template of {self._model} is broken: {error}") from error


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Jinja2's own would escape HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> Callable[..., Any]:
    import jinja2

    raise jinja2.exceptions.TemplateError(message)
