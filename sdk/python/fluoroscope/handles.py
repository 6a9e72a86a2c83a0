"""Activations that stay on the server: kept from a run or uploaded, each behind a handle with a time to live.

A handle is a source of interventions (`fs.patch(..., source=handle)`, `fs.set`, `fs.add`, `fs.mean`) that costs no transport, and can be read in parts. Its
bytes count against this client's limit until it is deleted or its time is over. Nothing here renews a handle in the background: a program that has
forgotten a handle must not hold the server's memory for ever. Use `with`, a `ttl` long enough for the work, or `handle.renew()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fluoroscope import options as keywords
from fluoroscope._proto.v1 import handle_pb2, handles_pb2, plan_pb2, tensor_pb2
from fluoroscope.arrays import plain
from fluoroscope.errors import FluoroscopeError, NotFoundError
from fluoroscope.indices import from_start, whole
from fluoroscope.names import HookKey, hook_name, is_layered
from fluoroscope.order import arrange, as_written, indices, lengths, refuse_twice, refuse_unsorted
from fluoroscope.selections import Positions, Prompts, as_ints, from_last, positions_message
from fluoroscope.suggest import listed, meant
from fluoroscope.wire import NUMPY_DTYPES, read_reply

if TYPE_CHECKING:
    from fluoroscope.assemble import Bfloat16
    from fluoroscope.client import Client
    from fluoroscope.interventions import Intervention
    from fluoroscope.model import Model
    from fluoroscope.requests import Plan
    from fluoroscope.running import NamesFilter
    from fluoroscope.wire import Reply

_SERVICE = "/fluoroscope.v1.Handles/"
_CHUNK = 2 * 1024 * 1024 - 64
_DTYPES = {"f32": tensor_pb2.DTYPE_F32, "f16": tensor_pb2.DTYPE_F16, "bf16": tensor_pb2.DTYPE_BF16, "f64": tensor_pb2.DTYPE_F64,
           "i32": tensor_pb2.DTYPE_I32, "i64": tensor_pb2.DTYPE_I64, "bool": tensor_pb2.DTYPE_BOOL}  # fmt: skip
_NAMES = {number: name for name, number in _DTYPES.items()}


class Handle:
    """One tensor on the server, of one prompt; made by model.keep, model.put and client.handles(). A context manager that deletes it.

    It is not renewed in the background: after its time to live every use is a NotFoundError that says so.

    Attributes:
      id: what the server calls it.
      model, weights_sha256: what it belongs to; with another model's weights it is refused.
      site, layer: the hook point; `layer` is None outside the blocks.
      dtype: "f32", "bf16", ...
      shape: the site's axes, as in `model.hooks()`, without a batch axis.
      positions: absolute positions along the position axis.
      token_ids: what stood there; empty for an upload without tokens.
      heads, units: along the head axis and the last axis when only some were kept; else empty.
      row: the prompt's number in the run that kept it.
      row_length: how many tokens that prompt had.
      nbytes: bytes.
      uploaded: it comes from model.put.
      plan_sha256: of the run that kept it.
      ttl: seconds to live when it was made, listed or last renewed.
    """

    def __init__(self, client: Client, message: handle_pb2.Handle) -> None:
        self._client = client
        self._deleted = False
        self.id: str = message.id
        self.model: str = message.model
        self.weights_sha256: str = message.weights_sha256
        self.site: str = message.site
        self.layer: int | None = message.layer if message.HasField("layer") else None
        self.dtype: str = _NAMES.get(message.dtype, str(message.dtype))
        self.shape: tuple[int, ...] = tuple(message.shape)
        self.positions: tuple[int, ...] = tuple(message.positions)
        self.token_ids: tuple[int, ...] = tuple(message.token_ids)
        self.heads: tuple[int, ...] = tuple(message.heads)
        self.units: tuple[int, ...] = tuple(message.units)
        self.row: int = message.row
        self.row_length: int = message.row_length
        self.nbytes: int = message.byte_size
        self.uploaded: bool = message.uploaded
        self.plan_sha256: str = message.plan_sha256
        self.ttl: float = message.seconds_left

    def numpy(
        self,
        *,
        positions: Positions = None,
        heads: int | Sequence[int] = (),
        units: int | Sequence[int] = (),
        bfloat16: Bfloat16 = "float32",
        timeout: float | None = None,
    ) -> np.ndarray:
        """The values, or a part of them: only that is sent.

        Args:
          positions: of the prompt: an index, a slice, a range, "all", "last", fs.occurrences(token), or a list of these; they must be in the handle.
            Default: all it has.
          heads, units: numbers along the head axis and the last axis, as the model counts them. Default: all it has.
          bfloat16: as in run_with_cache.

        Returns:
          an array with the axes of `shape`; positions, heads and units in the order given (positions other than plain indices, and all by default, ascend).
        """
        from fluoroscope.assemble import decode_bfloat16

        chosen = {what: from_start(as_ints(numbers, what), what, None) for what, numbers in (("heads", heads), ("units", units))}
        request = handles_pb2.GetHandleRequest(handle=self.id, positions=positions_message(positions), **chosen)
        refuse_twice(request.positions, request.heads, request.units)
        messages = self._client.stream(_SERVICE + "Get", request, timeout)
        try:
            reply = read_reply(messages, lambda header, dtype, shape: np.empty(shape, dtype))
        finally:
            messages.close()  # cancels the call if reading it failed
        ((header, array),) = reply.tensors
        select = plan_pb2.Selection(positions=request.positions, heads=request.heads)
        header.capture = 0
        arrange([(header, array)], [plan_pb2.Capture(select=select)], None, {header.row: self.row_length})  # type: ignore[arg-type]
        if list(request.units) != sorted(request.units):
            array = array.take(np.argsort(np.argsort(request.units)), -1)
        return decode_bfloat16(array, bfloat16) if header.dtype == tensor_pb2.DTYPE_BF16 else array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("a handle is on the server: handle.numpy() fetches its values, or a part of them")

    def renew(self, ttl: int = 600) -> None:
        """From now on it lives for `ttl` seconds more."""
        request = handles_pb2.RenewHandleRequest(handle=self.id, ttl_seconds=whole(ttl, "ttl", 1))
        self.ttl = self._client.unary(_SERVICE + "Renew", request, handles_pb2.RenewHandleReply).handle.seconds_left

    def delete(self) -> None:
        """Ends it now. NotFoundError when it has ended already."""
        self._client.unary(_SERVICE + "Delete", handles_pb2.DeleteHandleRequest(handle=self.id), handles_pb2.DeleteHandleReply)
        self._deleted = True

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        _delete_quietly([self], kind is not None)

    def __repr__(self) -> str:
        from fluoroscope.results import bytes_text

        state = "deleted" if self._deleted else self.id
        return f"Handle({self.site} of {self.model}, {self.dtype} {list(self.shape)}, {bytes_text(self.nbytes)}, {state})"

    @property
    def text(self) -> str:
        """Its dtype and shape, and whether it was deleted: "f32 [14, 576]"."""
        return f"{self.dtype} {list(self.shape)}{', deleted' if self._deleted else ''}"


class Handles(Mapping[str, "Handle | tuple[Handle, ...]"]):
    """What model.keep left of several hook points or prompts, by hook name: `handles["blocks.5.hook_resid_pre"]`, or in short `handles["resid_pre", 5]`.

    A Handle for a single prompt; for a list of prompts a tuple of one per prompt. A context manager that deletes all.
    """

    def __init__(self, handles: Sequence[Handle], layers: int, single: bool) -> None:
        self._all = list(handles)
        self._layers = layers
        self._by_name: dict[str, list[Handle]] = {}
        for handle in self._all:
            self._by_name.setdefault(handle.site, []).append(handle)
        self._single = single

    def __getitem__(self, key: HookKey) -> Handle | tuple[Handle, ...]:
        name = hook_name(key, self._layers)
        found = self._by_name.get(name)
        if found is None:
            raise KeyError(f"{name} was not kept; there are {listed(self._by_name)}{meant(name, self._by_name)}")
        return found[0] if self._single else tuple(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("these are several handles, on the server: handles[site].numpy() fetches the values of one")

    def all(self) -> list[Handle]:
        """Every handle, in the order in which the run made them."""
        return list(self._all)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them on the server."""
        return sum(handle.nbytes for handle in self._all)

    def renew(self, ttl: int = 600) -> None:
        """Renews every one."""
        for handle in self._all:
            handle.renew(ttl)

    def delete(self) -> None:
        """Deletes every one that is still there."""
        _delete_quietly(self._all, False)

    def __enter__(self) -> Handles:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        _delete_quietly(self._all, kind is not None)

    def __repr__(self) -> str:
        from fluoroscope.cache import by_layers
        from fluoroscope.results import bytes_text, counted

        texts = {name: " | ".join(dict.fromkeys(handle.text for handle in handles)) for name, handles in self._by_name.items()}
        groups = by_layers(texts)
        width = max((len(group) for group, _ in groups), default=0)
        prompts = "" if self._single else f" of {counted(len({handle.row for handle in self._all}), 'prompt')}"
        of = f" of {self._all[0].model}" if self._all else ""
        lines = [f"  {group:<{width}}  {texts[names[0]]}" for group, names in groups]
        return "\n".join([f"Handles{of}: {counted(len(self._all), 'tensor')}{prompts}, {bytes_text(self.nbytes)}", *lines])


def _delete_quietly(handles: Sequence[Handle], failing: bool) -> None:
    """Those that have ended already are no news; while another error is on its way no further one hides it."""
    for handle in handles:
        with suppress(FluoroscopeError if failing else NotFoundError):
            handle.delete()


@keywords.strict
def keep(
    model: Model,
    prompts: Prompts,
    names_filter: NamesFilter,
    *,
    ttl: int = 600,
    interventions: Sequence[Intervention] = (),
    positions: Positions = None,
    layers: int | Sequence[int] = (),
    heads: int | Sequence[int] = (),
    last: bool = False,
    bos: Any = None,
    parse_special_tokens: bool = False,
    isolated: bool = False,
    timeout: float | None = None,
) -> Handle | Handles:
    """Runs prompts and leaves activations on the server; see Model.keep."""
    capture = model._capture(names_filter, positions, layers, heads, "last" if last else None)
    if capture is None:
        raise ValueError("names_filter is empty: say which hook points to keep")
    plan = model._build(prompts, interventions=interventions, capture=capture, bos=bos, parse_special_tokens=parse_special_tokens, isolated=isolated)
    for message in plan.request.captures:
        refuse_unsorted(message.select.positions, message.select.heads, why="a handle has them in that order")
        message.keep.ttl_seconds = whole(ttl, "ttl", 1)
    reply, _ = model._call(plan, "float32", timeout)
    made = [Handle(model._client, message) for message in sorted(reply.handles, key=lambda message: message.row)]
    _refuse_turned(plan, reply, made)
    one_name = isinstance(names_filter, str) and not any(c in names_filter for c in "*?")
    if plan.single and (one_name or is_layered(names_filter)):
        return made[0]
    return Handles(made, model.info.layers, plan.single)


def _refuse_turned(plan: Plan, reply: Reply, made: list[Handle]) -> None:
    """[5, -10] is in ascending order or not as a prompt is long: what turned out not to be is given back."""
    asked, long = plan.request.captures[0].select.positions, lengths(plan.request.prompts[: plan.rows], reply.header)
    orders = [as_written(asked, message.positions, long[message.row]) or [] for message in reply.handles]
    turned = next((message for message, order in zip(reply.handles, orders, strict=True) if order != sorted(order)), None)
    if turned is None:
        return
    for handle in made:
        handle.delete()
    raise ValueError(
        f"positions must be written in ascending order, each once, because a handle has them in that order; {indices(asked)} are not in prompt "
        f"{turned.row}, which has {long[turned.row]} tokens"
    )


@keywords.strict
def put(
    model: Model,
    site: HookKey,
    value: ArrayLike,
    *,
    tokens: Sequence[int] = (),
    positions: Sequence[int] = (),
    heads: int | Sequence[int] = (),
    units: int | Sequence[int] = (),
    dtype: str | None = None,
    ttl: int = 600,
    timeout: float | None = None,
) -> Handle:
    """Uploads one tensor; see Model.put."""
    name = hook_name(site, model.info.layers)
    if dtype is None:
        dtype = "f32" if name.endswith(("hook_scale", "hook_normalized")) else model.info.dtype
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; {', '.join(map(repr, _DTYPES))} and None (the hook point's own) are allowed")
    if value is None:
        raise ValueError("value is None; give an array of numbers")
    array = _as_dtype(np.asarray(plain(value)), dtype)
    chosen_heads, chosen_units = from_last(model.hooks(), [name], as_ints(heads, "heads"), as_ints(units, "units"))
    header = handles_pb2.PutHeader(
        model=model.name, site=name, dtype=_DTYPES[dtype], shape=array.shape, positions=_from_0(positions, "positions"), token_ids=_from_0(tokens, "tokens"),
        heads=chosen_heads, units=chosen_units, ttl_seconds=whole(ttl, "ttl", 1),
    )  # fmt: skip

    def parts() -> Iterator[handles_pb2.PutRequest]:
        yield handles_pb2.PutRequest(header=header)
        data = array.reshape(-1).view(np.uint8).data
        for offset in range(0, len(data), _CHUNK):
            yield handles_pb2.PutRequest(chunk=handles_pb2.PutChunk(offset=offset, data=bytes(data[offset : offset + _CHUNK])))

    return Handle(model._client, model._client.upload(_SERVICE + "Put", parts(), handles_pb2.PutRequest, handles_pb2.PutReply, timeout).handle)


def _from_0(numbers: Sequence[int], what: str) -> tuple[int, ...]:
    return from_start(as_ints(numbers, what), what, None)


def list_handles(client: Client) -> list[Handle]:
    """See Client.handles."""
    found: list[Handle] = []
    after = ""
    while True:
        page = client.unary(_SERVICE + "List", handles_pb2.ListHandlesRequest(after=after), handles_pb2.ListHandlesReply)
        found += [Handle(client, message) for message in page.handles]
        if not page.next:
            # The server lists them by their ids, which are random.
            return sorted(found, key=lambda handle: (handle.model, -1 if handle.layer is None else handle.layer, handle.site, handle.row, handle.id))
        after = page.next


def _as_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    """C-contiguous, in the wire's dtype; bf16 as its bits, rounded to the nearest (ties to even)."""
    if dtype != "bf16":
        return np.ascontiguousarray(array, NUMPY_DTYPES[_DTYPES[dtype]]).reshape(array.shape)
    bits = np.ascontiguousarray(array, "<f4").reshape(array.shape).view("<u4")
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return np.where(np.isnan(bits.view("<f4")), np.uint16(0x7FC0), rounded).astype("<u2")

