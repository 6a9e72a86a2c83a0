"""The client for asyncio: the same surface, awaited; cancelling the task cancels the call on the server."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, TypeVar, cast

import numpy as np

from fluoroscope import hints
from fluoroscope.aio_handles import AsyncHandle, AsyncHandles
from fluoroscope.client import Client, Priority, connect
from fluoroscope.generate import GeneratedToken, Generation
from fluoroscope.handles import Handle, Handles
from fluoroscope.hooks import HookTable
from fluoroscope.jobs import AsyncJob, Job
from fluoroscope.loading import ModelList
from fluoroscope.model import Model
from fluoroscope.results import ModelInfo
from fluoroscope.underway import UNDERWAY, Underway
from fluoroscope.weights import AxisIndex, WeightInfo

P = ParamSpec("P")
R = TypeVar("R")


class AsyncClient:
    """A connection to one server for asyncio. Use one per process and share it between tasks; also an asynchronous context manager that closes it.

    Each call waits in a thread of its own, so the event loop neither waits for the server nor copies tensors. Cancelling the task that awaits a call
    (asyncio.timeout, TaskGroup, Ctrl-C) cancels the call, and the server stops working on it.

    Attributes:
      target: the server's address.
    """

    def __init__(self, target: str | Client, *, timeout: float | None = None, calls: int = 64) -> None:
        """Opens the connection lazily; `fs.connect_async` also checks that a server answers.

        Args:
          target: the server's gRPC address, or a client whose connection is to be used: `fs.AsyncClient(fs.serve("smollm2-135m"))`. Closing closes it too.
          timeout: seconds after which any call fails with DeadlineExceededError; for a client that is given, its own.
          calls: so many calls wait for the server at a time; more wait for their turn.
        """
        if isinstance(target, Client) and timeout is not None:
            raise ValueError("the client that is given has a timeout of its own; give it to that, or to each call")
        self._client = target if isinstance(target, Client) else Client(target, timeout=timeout)
        self._threads = ThreadPoolExecutor(calls, thread_name_prefix="fluoroscope-call")
        self.target = self._client.target

    async def models(self) -> ModelList:
        """As Client.models."""
        return await self._call(self._client.models)

    async def load_model(self, name: str, dtype: str | None = None, *, timeout: float | None = None) -> ModelInfo:
        """As Client.load_model. Cancelling the task cancels the call; unless another client waits for the model too, that ends the load."""
        return await self._call(self._client.load_model, name, dtype, timeout=timeout)

    async def unload_model(self, name: str) -> bool:
        """As Client.unload_model."""
        return await self._call(self._client.unload_model, name)

    async def model(self, name: str) -> AsyncModel:
        """A model by name. NotFoundError, with the names that exist, when there is none."""
        return AsyncModel(await self._call(self._client.model, name), self._run)

    async def handles(self) -> list[AsyncHandle]:
        """The activations that this client has left on the server and that are still there."""
        return [AsyncHandle(handle, self._call) for handle in await self._call(self._client.handles)]

    async def jobs(self) -> list[AsyncJob[Any]]:
        """As Client.jobs."""
        return [AsyncJob(job, self._call) for job in await self._call(self._client.jobs)]

    async def job(self, id: str) -> AsyncJob[Any]:
        """As Client.job."""
        return AsyncJob(await self._call(self._client.job, id), self._call)

    async def close(self) -> None:
        """Closes the connection, which ends calls that are under way, and the local server process if the client has one. May be called again."""
        await asyncio.to_thread(self._client.close)
        self._threads.shutdown(wait=False)

    async def _call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run(Underway(), function, *args, **kwargs)

    async def _run(self, underway: Underway, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self._client._check_open()
        context = contextvars.copy_context()
        context.run(UNDERWAY.set, underway)
        # Cancelled while it waits for a thread, it never runs.
        future = asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(context.run, function, *args, **kwargs))
        try:
            return await future
        except asyncio.CancelledError:
            underway.cancel()
            raise

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._client!r}"


async def connect_async(target: str = "localhost:7070", *, timeout: float | None = None, principal: str | None = None, priority: Priority = "interactive") -> AsyncClient:
    """Connects to a running server; arguments and errors as in fs.connect."""
    underway, context = Underway(), contextvars.copy_context()
    context.run(UNDERWAY.set, underway)
    try:
        return AsyncClient(await asyncio.to_thread(context.run, functools.partial(connect, target, timeout=timeout, principal=principal, priority=priority)))
    except asyncio.CancelledError:
        underway.cancel()
        raise


def _awaited(method: Callable[Concatenate[Model, P], R]) -> Callable[Concatenate[AsyncModel, P], Coroutine[Any, Any, R]]:
    @functools.wraps(method)
    async def call(self: AsyncModel, *args: P.args, **kwargs: P.kwargs) -> R:
        answer: Any = await self._call(method, self._model, *args, **kwargs)
        # Of as_job=True: what waits there is awaited here.
        return cast(R, AsyncJob(answer, self._call) if isinstance(answer, Job) else answer)

    return call


class AsyncGeneration(AsyncIterator[GeneratedToken]):
    """fluoroscope.Generation, awaited: `async for token in await model.generate(...)`. Cancelling the task that waits for a token cancels the call.

    Attributes:
      prompt_ids, provenance: as Generation's.
    """

    def __init__(self, generation: Generation, run: Callable[..., Coroutine[Any, Any, Any]], underway: Underway) -> None:
        self._generation = generation
        self._run = run
        self._underway = underway
        self.prompt_ids = generation.prompt_ids
        self.provenance = generation.provenance

    async def __anext__(self) -> GeneratedToken:
        token = await self._run(self._underway, next, self._generation, None)
        if token is None:
            raise StopAsyncIteration
        return token

    async def read(self) -> Generation:
        """Reads to the end; what Generation has (`text`, `cache`, ...) then needs no waiting."""
        await self._run(self._underway, lambda: self._generation.tokens)
        return self._generation

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(Generation, name):
            raise AttributeError(f"AsyncGeneration has no {name!r}, which waits for the end: (await generation.read()).{name}")
        raise AttributeError(f"AsyncGeneration has no attribute {name!r}")

    async def close(self) -> None:
        """Ends the call, if it has not ended."""
        self._underway.cancel()
        await self._run(self._underway, self._generation.close)

    def __repr__(self) -> str:
        return f"Async{self._generation!r}"


def _generated(method: Callable[Concatenate[Model, P], Generation]) -> Callable[Concatenate[AsyncModel, P], Coroutine[Any, Any, AsyncGeneration]]:
    @functools.wraps(method)
    async def call(self: AsyncModel, *args: P.args, **kwargs: P.kwargs) -> AsyncGeneration:
        underway = Underway()
        return AsyncGeneration(await self._run(underway, method, self._model, *args, **kwargs), self._run, underway)

    return call


def _kept(method: Callable[Concatenate[Model, P], Handle | Handles]) -> Callable[Concatenate[AsyncModel, P], Coroutine[Any, Any, AsyncHandle | AsyncHandles]]:
    @functools.wraps(method)
    async def call(self: AsyncModel, *args: P.args, **kwargs: P.kwargs) -> AsyncHandle | AsyncHandles:
        made = await self._call(method, self._model, *args, **kwargs)
        return AsyncHandle(made, self._call) if isinstance(made, Handle) else AsyncHandles(made, self._call)

    return call


def _put(method: Callable[Concatenate[Model, P], Handle]) -> Callable[Concatenate[AsyncModel, P], Coroutine[Any, Any, AsyncHandle]]:
    @functools.wraps(method)
    async def call(self: AsyncModel, *args: P.args, **kwargs: P.kwargs) -> AsyncHandle:
        return AsyncHandle(await self._call(method, self._model, *args, **kwargs), self._call)

    return call


class AsyncModel:
    """A model on the server, made by `await client.model(name)`: fluoroscope.Model with every call awaited; arguments, answers and errors are its own.

    Attributes:
      name: its name on this server.
      info: sizes, dtype, device and hashes.
    """

    def __init__(self, model: Model, run: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._model = model
        self._run = run
        self.name = model.name
        self.info = model.info

    async def _call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run(Underway(), function, *args, **kwargs)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise hints.no_attribute(self, name, hints.ASYNC_MODEL)

    def __call__(self, *prompts: Any, **options: Any) -> NoReturn:
        """Always TypeError: it says which method to call."""
        raise hints.not_called(self)

    def hooks(self) -> HookTable:
        """The hook points of this model, with their equations and shapes. Known already: nothing to await."""
        return self._model.hooks()

    async def weight(self, name: str, *index: AxisIndex | EllipsisType) -> np.ndarray:
        """`await model.weight("blocks.3.attn.W_Q", 2, slice(10))` is `model.weights["blocks.3.attn.W_Q", 2, :10]`, which an index cannot await."""
        return await self._call(lambda: self._model.weights[(name, *index)])

    async def weight_infos(self) -> list[WeightInfo]:
        """Names, axes and shapes of all weights."""
        return await self._call(lambda: [self._model.weights.info(name) for name in self._model.weights])

    tokenize = _awaited(Model.tokenize)
    to_str_tokens = _awaited(Model.to_str_tokens)
    detokenize = _awaited(Model.detokenize)
    differing_positions = _awaited(Model.differing_positions)
    align = _awaited(Model.align)
    run_with_cache = _awaited(Model.run_with_cache)
    run_with_hooks = _awaited(Model.run_with_hooks)
    run = _awaited(Model.run)
    subspace_effects = _awaited(Model.subspace_effects)
    top_tokens = _awaited(Model.top_tokens)
    generate = _generated(Model.generate)
    chat = _generated(Model.chat)
    keep = _kept(Model.keep)
    put = _put(Model.put)
    chat_text = _awaited(Model.chat_text)
    estimate = _awaited(Model.estimate)
    estimate_generate = _awaited(Model.estimate_generate)
    sweep = _awaited(Model.sweep)
    attribute = _awaited(Model.attribute)
    estimate_sweep = _awaited(Model.estimate_sweep)
    attribute_edges = _awaited(Model.attribute_edges)
    path_patch = _awaited(Model.path_patch)
    estimate_path_patch = _awaited(Model.estimate_path_patch)
    causal_trace = _awaited(Model.causal_trace)
    logit_lens = _awaited(Model.logit_lens)
    logit_attrs = _awaited(Model.logit_attrs)
    to_single_token = _awaited(Model.to_single_token)

    def __repr__(self) -> str:
        return f"Async{self._model!r}"
