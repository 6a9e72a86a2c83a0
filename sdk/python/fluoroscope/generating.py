"""Generation: a model's methods for it, their options, and the request they make."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from fluoroscope import options as keywords
from fluoroscope._proto.v1 import inference_pb2
from fluoroscope.chat import ChatTemplate, Message
from fluoroscope.generate import METHOD, Generation
from fluoroscope.indices import whole
from fluoroscope.interventions import Intervention
from fluoroscope.requests import Plan, Reduction
from fluoroscope.results import Estimate
from fluoroscope.running import NamesFilter, Running
from fluoroscope.selections import Bos, Positions, Prompts

_ESTIMATE = "/fluoroscope.v1.Inference/EstimateGenerate"


class ChatOptions(TypedDict, total=False):
    """What Model.chat takes too; Model.generate explains them."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    samples: int
    stop: str | Sequence[str]
    ignore_eos: bool
    top_logprobs: int
    interventions: Sequence[Intervention]
    names_filter: NamesFilter
    positions: Positions
    layers: int | Sequence[int]
    heads: int | Sequence[int]
    reduction: Reduction
    isolated: bool


class GenerateOptions(ChatOptions, total=False):
    """The options of Model.generate."""

    bos: Bos
    parse_special_tokens: bool


DEFAULTS: GenerateOptions = {
    "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "seed": None, "samples": 1, "stop": (), "ignore_eos": False,
    "top_logprobs": 0, "interventions": (), "names_filter": (), "positions": None, "layers": (), "heads": (), "reduction": None, "isolated": False, "bos": None,
    "parse_special_tokens": False,
}  # fmt: skip


class Generating(Running):
    """The part of a Model that generates; see Model."""

    _chat_template: ChatTemplate

    @keywords.shows(GenerateOptions, DEFAULTS)
    def generate(self, prompts: Prompts, max_new_tokens: int = 64, *, timeout: float | None = None, **options: Unpack[GenerateOptions]) -> Generation:
        """Lets prompts go on: `for token in model.generate("Once upon a time", max_new_tokens=40): print(token.text, end="")`.

        Args:
          max_new_tokens: of each continuation; it and the prompt must fit the model's context.
          temperature: 0 takes the most likely token each time. Over 0 tokens are drawn.
          top_k, top_p, min_p: draw only from the k most likely; from the most likely that have the probability p together; from those at least p times as
            likely as the most likely one. In this order, behind the temperature, as in transformers.
          repetition_penalty: over 1 makes tokens that were there already less likely, also in the prompt.
          seed: the same prompt and seed give the same tokens, alone and in any batch. Default: a new one each time.
          samples: continuations of each prompt.
          stop: a continuation ends where its text contains this, or one of these.
          ignore_eos: go on behind the model's end-of-sequence tokens.
          top_logprobs: so many of the most likely tokens, with each token.
          interventions: as in run_with_hooks. Their positions may be "prompt", "generated" or "all" (the default: both). Kinds that take values from another
            prompt act on the prompt's tokens only.
          names_filter, positions, layers, heads, reduction: activations to keep, as in run_with_hooks; positions as of interventions.
          bos, parse_special_tokens: see tokenize.
          isolated: each continuation steps alone and nothing is reused from earlier generations: a repeat gives the same bits.

        Returns:
          An iterator of GeneratedToken. `.text` reads to the end and gives the whole.

        Raises:
          InvalidArgumentError: an argument is out of range; the message says what is allowed.
        """
        keywords.check(Generating.generate, options, GenerateOptions.__annotations__)
        plan, request = _request(self, prompts, max_new_tokens, options)
        return Generation(plan, request, self._client.stream(METHOD, request, timeout), self.info.layers)

    @keywords.shows(GenerateOptions, DEFAULTS)
    def estimate_generate(self, prompts: Prompts, max_new_tokens: int = 64, **options: Unpack[GenerateOptions]) -> Estimate:
        """What `generate` with these arguments would cost, without running it: as if every continuation took all its tokens and nothing were reused."""
        keywords.check(Generating.estimate_generate, options, GenerateOptions.__annotations__)
        _, request = _request(self, prompts, max_new_tokens, options)
        return Estimate.of(self._client.unary(_ESTIMATE, request, inference_pb2.EstimateReply))

    @keywords.shows(ChatOptions, DEFAULTS)
    def chat(self, messages: Sequence[Message], max_new_tokens: int = 64, *, timeout: float | None = None, **options: Unpack[ChatOptions]) -> Generation:
        """The model's answer in a conversation: `model.chat([{"role": "user", "content": "What is the capital of France?"}]).text`.

        Args:
          messages: what was said so far, oldest first: {"role": "system", "user" or "assistant", "content": text}.
          options: the other arguments of `generate` but `bos` and `parse_special_tokens`: the model's template writes its special tokens itself, a BOS
            too, and nothing is added to it. Special tokens that a message's content spells out are read as such, as in transformers.

        Raises:
          FailedPreconditionError: the model has no chat template.
        """
        keywords.check(Generating.chat, options, ChatOptions.__annotations__)
        return self.generate(self.chat_text(messages), max_new_tokens, bos="never", parse_special_tokens=True, timeout=timeout, **options)

    def chat_text(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The text that the model's chat template makes of a conversation, up to where the answer begins. `variables` are for the template."""
        return self._chat_template.render(messages, add_generation_prompt=add_generation_prompt, **variables)


def _request(model: Generating, prompts: Prompts, max_new_tokens: int, options: GenerateOptions) -> tuple[Plan, inference_pb2.GenerateRequest]:
    """Model.generate's arguments as the plan of its prompts and the request."""
    given = DEFAULTS | options
    numbers: Mapping[str, Any] = {name: given[name] for name in ("top_k", "samples", "top_logprobs")}
    for name, number in {"max_new_tokens": max_new_tokens, **numbers}.items():
        whole(number, name)
    seed, stop = given["seed"], given["stop"]
    if seed is not None:
        whole(seed, "seed", 0, 2**64 - 1)
    capture = model._capture(given["names_filter"], given["positions"], given["layers"], given["heads"], given["reduction"])
    plan = model._build(
        prompts, interventions=given["interventions"], capture=capture, bos=given["bos"], parse_special_tokens=given["parse_special_tokens"],
    )  # fmt: skip
    sampling = inference_pb2.Sampling(
        temperature=given["temperature"], top_k=given["top_k"], top_p=given["top_p"], min_p=given["min_p"],
        repetition_penalty=given["repetition_penalty"], seed=secrets.randbits(64) if seed is None else seed,
    )  # fmt: skip
    return plan, inference_pb2.GenerateRequest(
        model=plan.request.model, prompts=plan.request.prompts, captures=plan.request.captures, interventions=plan.request.interventions,
        max_new_tokens=max_new_tokens, sampling=sampling, samples=given["samples"], stop=[stop] if isinstance(stop, str) else stop,
        ignore_eos=given["ignore_eos"], top_logprobs=given["top_logprobs"], sources=len(plan.request.prompts) - plan.rows, isolated=given["isolated"],
    )  # fmt: skip
