"""Arguments and results as JSON, made and read by a task's annotations. For the core: producers and workers.

What does not read back equal is refused before it is sent, by reading it exactly as the worker will. A payload is
`{"args": [...], "kwargs": {...}}` in UTF-8: positional and by name as the caller wrote it, without the defaults, which
are the worker's. `bytes` are base64. A `BaseModel` keeps to its own `model_config`: for bytes that are not text it has
to set `ser_json_bytes` and `val_json_bytes` to "base64".
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any, Never, NewType, NoReturn, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from queueport.errors import ConfigurationError, InvalidJob

__all__ = ["Signature", "decode_json", "decode_plain", "encode_plain"]


class Signature:
    """The arguments and the result of one task, as JSON and back.

    Annotations are resolved on first use, so a task may name types that are defined further down. Whatever comes first
    raises ConfigurationError, naming task, parameter and annotation, if one cannot be resolved. Thread-safe.
    """

    def __init__(self, task: str | None, function: Callable[..., Any] | None) -> None:
        """`task` is the name to be told in errors; without a function any plain JSON is taken."""
        self._task = task
        self._function = function

    def resolve(self) -> None:
        """Resolve the annotations now rather than on first use."""
        _ = self._slots

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """The payload of a call. Raises InvalidJob, naming the parameter, for a call that cannot be made or sent."""
        self._bind(args, kwargs)
        positional = [slot.encode(value, index) for slot, index, value in self._slots.positional(args)]
        named = [
            _NAME.encode(name) + b":" + slot.encode(value, name) for slot, name, value in self._slots.named(kwargs)
        ]
        return b'{"args":[%b],"kwargs":{%b}}' % (b",".join(positional), b",".join(named))

    def decode(self, payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call in a payload, typed by annotation. Raises InvalidJob, naming the parameter, if it does not fit."""
        args, kwargs = decode_plain(payload)
        self._bind(args, kwargs)
        return (
            tuple(slot.decode(value, index) for slot, index, value in self._slots.positional(args)),
            {name: slot.decode(value, name) for slot, name, value in self._slots.named(kwargs)},
        )

    def encode_result(self, value: Any) -> bytes:
        """A result as JSON. Raises InvalidJob if it is not what the annotation says or would not read back equal."""
        return self._slots.result.encode(value)

    def decode_result(self, data: bytes) -> Any:
        """A result, typed by annotation. Raises InvalidJob if it does not fit."""
        return self._slots.result.decode(decode_json(data))

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            self._slots.shape.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidJob(f"task {self._task!r}: {error}") from None

    @cached_property
    def _slots(self) -> _Slots:
        prefix = "" if self._task is None else f"task {self._task!r}: "
        shape = _PLAIN_SHAPE if self._function is None else inspect.signature(self._function)
        by_position: list[_Slot] = []
        by_name: dict[str, _Slot] = {}
        rest = others = None
        for name, parameter in shape.parameters.items():
            kind, adapter = parameter.kind, self._adapter(f"parameter {name!r}", parameter.annotation)
            if kind is parameter.VAR_POSITIONAL:
                rest = _Slot(f"{prefix}argument {name}", adapter, indexed=True)
            elif kind is parameter.VAR_KEYWORD:
                others = _Slot(f"{prefix}argument {name}", adapter, indexed=True)
            else:
                slot = _Slot(f"{prefix}argument {name!r}", adapter)
                if kind is not parameter.KEYWORD_ONLY:
                    by_position.append(slot)
                if kind is not parameter.POSITIONAL_ONLY:
                    by_name[name] = slot
        result = _Slot(f"{prefix}the result", self._adapter("the result", shape.return_annotation))
        return _Slots(shape, by_position, by_name, rest, others, result)

    def _adapter(self, what: str, annotation: Any) -> TypeAdapter[Any]:
        if self._function is None or annotation is inspect.Parameter.empty:
            return _ANY
        try:
            holder = SimpleNamespace(__annotations__={"it": annotation})
            names = inspect.unwrap(self._function).__globals__
            return _adapter(get_type_hints(holder, names, include_extras=True)["it"])
        except Exception as error:  # annotations are code of the application and may raise anything
            shown = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
            reason = str(error).partition("\n")[0].rstrip(".")
            raise ConfigurationError(
                f"task {self._task!r}: the annotation {shown!r} of {what} cannot be used: {reason}"
            ) from error


def encode_plain(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """The payload of a call to a task known by name alone: plain JSON values. Raises InvalidJob, naming the value."""
    return _PLAIN.encode(args, kwargs)


def decode_plain(payload: bytes) -> tuple[list[Any], dict[str, Any]]:
    """The call in a payload as plain JSON, for which the task's code is not needed. Raises InvalidJob for garbage."""
    match decode_json(payload):
        case {"args": list(args), "kwargs": dict(kwargs)}:
            return args, kwargs
        case _:
            raise InvalidJob('the payload is not {"args": [...], "kwargs": {...}}')


def decode_json(data: bytes) -> Any:
    """Any JSON, such as a result without its task's code. Raises InvalidJob for what is not JSON."""
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJob(f"not JSON that queueport wrote: {error}") from error


@dataclass(frozen=True, slots=True)
class _Slot:
    """One parameter, or the result: what to call it in an error, and the adapter of its annotation."""

    label: str
    adapter: TypeAdapter[Any]
    indexed: bool = False
    """`*args` or `**kwargs`: one annotation for many values, told apart by index or name."""

    def encode(self, value: Any, key: int | str = "") -> bytes:
        try:
            valid = self.adapter.validator.validate_python(value)
            data = self.adapter.serializer.to_json(valid, by_alias=True, round_trip=True, warnings="none")
            # As deep as in a payload, for the parser's depth is limited.
            back = self._read(from_json(b"[[%b]]" % data, allow_inf_nan=False)[0][0])
            if _equal(valid, back):
                return data
        except Exception as error:  # validators, serialisers and __eq__ of the application run here
            raise self._refusal(key, _reason(error)) from error
        came, went = type(back).__name__, type(valid).__name__
        reason = f"{went} does not read back equal from JSON"
        if came != went:
            reason += f", it would arrive as {came}"
        raise self._refusal(key, reason)

    def decode(self, raw: Any, key: int | str = "") -> Any:
        try:
            return self._read(raw)
        except Exception as error:  # validators of the application run here
            raise self._refusal(key, _reason(error)) from error

    def _read(self, raw: Any) -> Any:
        # Through JSON again: pydantic reads bytes, and models in strict mode, otherwise from Python values.
        return self.adapter.validator.validate_json(to_json(raw), by_alias=True)

    def _refusal(self, key: int | str, reason: str) -> InvalidJob:
        return InvalidJob(f"{self.label}[{key!r}]: {reason}" if self.indexed else f"{self.label}: {reason}")


@dataclass(frozen=True, slots=True)
class _Slots:
    """The slots of a task, found by position or by name. Arguments must be bound to `shape` before."""

    shape: inspect.Signature
    by_position: Sequence[_Slot]
    by_name: Mapping[str, _Slot]
    rest: _Slot | None
    """That of `*args`."""
    others: _Slot | None
    """That of `**kwargs`."""
    result: _Slot

    def positional(self, args: Sequence[Any]) -> Iterator[tuple[_Slot, int, Any]]:
        slots = chain(self.by_position, repeat(cast("_Slot", self.rest)))
        for index, (slot, value) in enumerate(zip(slots, args, strict=False), -len(self.by_position)):
            yield slot, index, value

    def named(self, kwargs: Mapping[str, Any]) -> Iterator[tuple[_Slot, str, Any]]:
        for name, value in kwargs.items():
            yield cast("_Slot", self.by_name.get(name, self.others)), name, value


def _adapter(hint: Any) -> TypeAdapter[Any]:
    if hint in (Never, NoReturn):  # a task that always raises, so its result is None
        hint = None
    # Through a NewType, for settings given to a dataclass or a TypedDict itself are refused.
    value = cast("Any", NewType)("Value", hint)
    adapter = TypeAdapter[Any](value, config=_BASE64)
    adapter.rebuild(raise_errors=True)  # else a model whose own annotations are unresolved fails on its first value
    return adapter


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    reason = str(error)
    if "invalid utf-8 sequence" in reason:
        reason += '; a model with such bytes needs ser_json_bytes and val_json_bytes = "base64" in its model_config'
    return reason


def _equal(sent: Any, back: Any) -> bool:
    """Equality, but for one gap: in the hour that is repeated when summer time ends, times of two zones never equal."""
    if sent == back:
        return True
    if type(sent) is not type(back):
        return False
    match sent:
        case datetime() if sent.tzinfo is not None and back.tzinfo is not None:
            return bool(sent.astimezone(UTC) == back.astimezone(UTC))
        case list() | tuple():
            return len(sent) == len(back) and all(map(_equal, sent, back))
        case dict():
            return sent.keys() == back.keys() and all(_equal(value, back[key]) for key, value in sent.items())
        case BaseModel():
            parts = ("__dict__", "__pydantic_extra__", "__pydantic_private__")
            return all(_equal(getattr(sent, part), getattr(back, part)) for part in parts)
        case _ if dataclasses.is_dataclass(sent):
            names = [field.name for field in dataclasses.fields(sent)]
            return all(_equal(getattr(sent, name), getattr(back, name)) for name in names)
    return False


_BASE64 = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_ANY: TypeAdapter[Any] = TypeAdapter(Any, config=_BASE64)
_NAME = _Slot("the name of an argument", _ANY)
_PLAIN_SHAPE = inspect.Signature(
    [
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
    ]
)
_PLAIN = Signature(None, None)
