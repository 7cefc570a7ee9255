"""Encodes arguments and results as JSON, and decodes them to the types of a task's annotations. For producers and
workers.

A producer validates each argument, encodes it, decodes it as a worker with the same annotations will, and refuses the
argument if the decoded value is not equal to the validated one. A plain value that encoding cannot change, such as
ASCII text, is encoded without these checks if the annotation allows its type. A worker does the same with a result.

A payload is `{"args": [...], "kwargs": {...}}` in UTF-8: the positional and keyword arguments that the caller gave. The
payload contains no default values, because the worker applies those of its own version of the task. `bytes` are encoded
as base64. A `BaseModel` follows its own `model_config`: if the model has bytes that are not UTF-8, this config must set
`ser_json_bytes` and `val_json_bytes` to "base64".
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from itertools import chain, islice, repeat
from types import SimpleNamespace, UnionType
from typing import (
    Annotated,
    Any,
    Never,
    NewType,
    NoReturn,
    NotRequired,
    Required,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import typing_extensions
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from queueport.errors import ConfigurationError, InvalidJob, message_of, type_of

__all__ = ["Signature", "decode_json", "decode_plain"]

FORMS = 32
"""The maximum number of forms of calls for which a task caches codecs. A form is the number of positional arguments and
the names of the keyword arguments."""
SCALARS = (str, int, float, bool, type(None))
"""pydantic encodes and decodes values of these types without changing them, if the annotation allows their type. Some
numbers, and texts that are not ASCII, are exceptions: see LARGE."""
LARGE = 2**63
"""Of the values whose types are in SCALARS, these are validated and decoded as a check: numbers whose absolute value is
not less than this, numbers that are not finite, and text that is not ASCII. Other values of these types need no check
if the annotation allows their type."""


class Signature:
    """Encodes and decodes the arguments and results of one task. Thread-safe.

    The annotations are resolved on first use, so that they may name types that are defined later in the module. If an
    annotation cannot be resolved or used, each method raises ConfigurationError.
    """

    def __init__(self, task: str | None, function: Callable[..., Any] | None) -> None:
        """`task` is the name to show in errors. Without a function, any plain JSON values are accepted."""
        self._task = task
        self._function = function
        self._bound = lru_cache(FORMS)(self._bind)

    def resolve(self) -> None:
        """Resolve the annotations now.

        Raises ConfigurationError if an annotation cannot be resolved or used. The error names the task, the annotation
        and its parameter, or says that the annotation is that of the result.
        """
        _ = self._codecs

    def encode(self, args: Sequence[Any], kwargs: Mapping[str, Any], *, passed: int = 0) -> bytes:
        """Encode arguments as a payload. They follow `passed` arguments that are not known yet.

        Raises InvalidJob if the task cannot be called with these arguments, or if a value does not match its
        annotation, cannot be encoded, or would not be equal after decoding. An error about a value names the parameter.
        """
        by_position, by_name = self._bound(passed + len(args), *kwargs)
        if passed:
            by_position = by_position[passed:]
        positional = [codec.encode(value, key) for (codec, key), value in zip(by_position, args, strict=True)]
        if not kwargs:
            return b'{"args":[%b],"kwargs":{}}' % b",".join(positional)
        named = [_NAME.encode(name) + b":" + codec.encode(kwargs[name], name) for codec, name in by_name]
        return b'{"args":[%b],"kwargs":{%b}}' % (b",".join(positional), b",".join(named))

    def with_defaults(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call with the default values of the other parameters, with as many positional arguments as possible.

        Takes the arguments of `encode`, which has checked them.
        """
        bound = self._codecs.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.args, bound.kwargs

    def encode_plain(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """Encode arguments as a payload, like `encode`, but keep plain JSON values as they are. For edited jobs.

        Such values are checked as a worker will decode them, by the rules for JSON: a strict model then takes a time as
        text. Raises the errors of `encode`.
        """
        by_position, by_name = self._bound(len(args), *kwargs)
        positional = [codec.encode_plain(value, key) for (codec, key), value in zip(by_position, args, strict=True)]
        named = [_NAME.encode(name) + b":" + codec.encode_plain(kwargs[name], name) for codec, name in by_name]
        return b'{"args":[%b],"kwargs":{%b}}' % (b",".join(positional), b",".join(named))

    def decode(self, payload: bytes, passed: bytes | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decode a payload to the annotated types. `passed`, as JSON, is one more argument, the first one.

        Raises InvalidJob if the data is not a payload, if the task cannot be called with its arguments, or if a value
        does not match its annotation. In the last case, the error names the parameter.
        """
        args, kwargs = decode_plain(payload)
        if passed is not None:
            args.insert(0, decode_json(passed, "the result of the job before this one"))
        by_position, by_name = self._bound(len(args), *kwargs)
        return (
            tuple([codec.decode(value, key) for (codec, key), value in zip(by_position, args, strict=True)]),
            {name: codec.decode(kwargs[name], name) for codec, name in by_name},
        )

    def encode_result(self, value: Any) -> bytes:
        """Encode a result. Raises InvalidJob if it does not match the annotation, cannot be encoded, or would not be
        equal after decoding.
        """
        return self._codecs.result.encode(value)

    def decode_result(self, data: bytes) -> Any:
        """Decode a result to the annotated type. Raises InvalidJob if it is not JSON or does not match the type."""
        return self._codecs.result.decode(decode_json(data, "the result"))

    def _bind(self, count: int, *names: str) -> tuple[list[tuple[_Codec, int]], list[tuple[_Codec, str]]]:
        """Return the codecs for a call with `count` positional arguments and the named arguments `names`.

        There is one codec for each argument. It comes with the argument's name or, for a positional argument, with the
        index counted from the first argument of `*args`: errors about `*args` and `**kwargs` show this index or name.
        All calls with the same count and names have the same codecs, so `_bound` caches the codecs. Raises InvalidJob
        if the task cannot be called with these arguments.
        """
        codecs = self._codecs
        try:
            codecs.signature.bind(*range(count), **dict.fromkeys(names))
        except TypeError as error:
            raise InvalidJob(f"task {self._task!r}: {error}") from None
        by_position = chain(codecs.by_position, repeat(cast("_Codec", codecs.var_args)))
        positional = [(codec, key - len(codecs.by_position)) for key, codec in enumerate(islice(by_position, count))]
        return positional, [(cast("_Codec", codecs.by_name.get(name, codecs.var_kwargs)), name) for name in names]

    @cached_property
    def _codecs(self) -> _Codecs:
        prefix = "" if self._task is None else f"task {self._task!r}: "
        signature = _ANY_ARGUMENTS if self._function is None else inspect.signature(self._function)
        by_position: list[_Codec] = []
        by_name: dict[str, _Codec] = {}
        var_args = var_kwargs = None
        for name, parameter in signature.parameters.items():
            kind, found = parameter.kind, self._adapter(f"parameter {name!r}", parameter.annotation)
            if kind is parameter.VAR_POSITIONAL:
                var_args = _Codec(f"{prefix}argument {name}", *found, indexed=True)
            elif kind is parameter.VAR_KEYWORD:
                var_kwargs = _Codec(f"{prefix}argument {name}", *found, indexed=True)
            else:
                codec = _Codec(f"{prefix}argument {name!r}", *found)
                if kind is not parameter.KEYWORD_ONLY:
                    by_position.append(codec)
                if kind is not parameter.POSITIONAL_ONLY:
                    by_name[name] = codec
        result = _Codec(f"{prefix}the result", *self._adapter("the result", signature.return_annotation))
        return _Codecs(signature, by_position, by_name, var_args, var_kwargs, result)

    def _adapter(self, what: str, annotation: Any) -> tuple[TypeAdapter[Any], Collection[Any]]:
        """Return the pydantic adapter of an annotation, and the types whose values need no check.

        Returns the types that the annotation allows, if all of them are in SCALARS; otherwise no types. Without a
        function or an annotation, or for `Any`, returns SCALARS. Values that LARGE describes are checked nevertheless.
        Raises ConfigurationError if the annotation cannot be used.
        """
        if self._function is None or annotation is inspect.Parameter.empty:
            return _ANY, SCALARS
        try:
            annotated = SimpleNamespace(__annotations__={"value": annotation})
            names = inspect.unwrap(self._function).__globals__
            hint = _replace_typed_dicts(get_type_hints(annotated, names, include_extras=True)["value"], {})
            if hint in (Never, NoReturn):  # the task never returns normally: treat its result as None
                hint = None
            # pydantic rejects a config for a dataclass or a TypedDict, but accepts a config for a NewType of that type.
            adapter = TypeAdapter[Any](cast("Any", NewType)("Value", hint), config=_BASE64)
            adapter.rebuild(raise_errors=True)  # report unresolved annotations of a model now, not on first use
            kinds = SCALARS if hint is Any else get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            return adapter, kinds if all(kind in SCALARS for kind in kinds) else ()
        except Exception as error:  # annotations are code of the application and may raise anything
            shown = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
            reason = message_of(error).partition("\n")[0].rstrip(".")
            raise ConfigurationError(
                f"task {self._task!r}: the annotation {shown!r} of {what} cannot be used: {reason}"
            ) from error


def decode_plain(payload: bytes) -> tuple[list[Any], dict[str, Any]]:
    """Decode a payload to plain JSON values, without the task's code. Raises InvalidJob if it is not a payload."""
    match decode_json(payload, "the payload"):
        case {"args": list(args), "kwargs": dict(kwargs)}:
            return args, kwargs
        case _:
            raise InvalidJob(
                'the payload is not {"args": [...], "kwargs": {...}}: make jobs with the method job() of a task'
            )


def decode_json(data: bytes, what: str) -> Any:
    """Decode JSON to plain values, without the task's code. Raises InvalidJob if `data` is not valid JSON.

    `what` names the data in the error.
    """
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidJob(f"{what} is not valid JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class _Codec:
    """Encodes and decodes the values of one parameter, or of the result."""

    label: str
    """How errors name the value: by the task, and by the parameter or as the result."""
    adapter: TypeAdapter[Any]
    scalars: Collection[type] = ()
    """The types among SCALARS whose values need no check, except for the values that LARGE describes."""
    indexed: bool = False
    """True for `*args` and `**kwargs`: errors then also show the index or the name of the value."""

    def encode(self, value: Any, key: int | str = "") -> bytes:
        if self._is_plain(value):
            return to_json(value)  # a plain value: the steps below would return the same bytes
        try:
            valid = self.adapter.validator.validate_python(value)
            data = self.adapter.serializer.to_json(valid, by_alias=True, round_trip=True, warnings="none")
            # The parser limits the nesting depth. The two brackets nest the value as deeply as a payload does.
            back = self._read(from_json(b"[[%b]]" % data, allow_inf_nan=False)[0][0])
            difference = _difference(valid, back)
            if difference is None:
                return data
        except Exception as error:  # validators, serialisers and __eq__ of the application run here
            raise self._invalid(key, _reason(error)) from error
        raise self._invalid(key, difference)

    def encode_plain(self, value: Any, key: int | str = "") -> bytes:
        """Encode a plain JSON value as it is, if `decode` accepts it, and any other value as `encode` does."""
        try:
            data = _PLAIN.encode(value)
        except InvalidJob:
            return self.encode(value, key)
        self.decode(from_json(data), key)
        return data

    def decode(self, raw: Any, key: int | str = "") -> Any:
        if self._is_plain(raw):
            return raw  # a plain value: validation would return it unchanged
        try:
            return self._read(raw)
        except Exception as error:  # validators of the application run here
            raise self._invalid(key, _reason(error)) from error

    def _is_plain(self, value: Any) -> bool:
        """True if it is certain, without a check, that encoding and decoding leave the value as it is."""
        kind = type(value)
        return kind in self.scalars and (value.isascii() if kind is str else value is None or -LARGE < value < LARGE)

    def _read(self, raw: Any) -> Any:
        # The value is encoded as JSON again, because pydantic validates bytes and strict models in JSON by other rules
        # than in Python objects.
        return self.adapter.validator.validate_json(to_json(raw), by_alias=True)

    def _invalid(self, key: int | str, reason: str) -> InvalidJob:
        return InvalidJob(f"{self.label}[{key!r}]: {reason}" if self.indexed else f"{self.label}: {reason}")


@dataclass(frozen=True, slots=True)
class _Codecs:
    """The signature of a task, and the codecs of its parameters and of its result."""

    signature: inspect.Signature
    by_position: Sequence[_Codec]
    by_name: Mapping[str, _Codec]
    var_args: _Codec | None
    """The codec of `*args`; None if the task has no such parameter."""
    var_kwargs: _Codec | None
    """The codec of `**kwargs`; None if the task has no such parameter."""
    result: _Codec


def _replace_typed_dicts(hint: Any, replaced: dict[Any, Any]) -> Any:
    """On Python 3.11, replace each `typing.TypedDict` in the hint by a `typing_extensions.TypedDict`.

    pydantic requires the class of `typing_extensions` on this version. On later versions, returns the hint unchanged.
    `replaced` maps the classes that were already found to their replacements. A generic TypedDict is not replaced, and
    neither is a TypedDict that is the type of a field of a dataclass or a model.
    """
    if sys.version_info >= (3, 12):
        return hint
    if type(hint).__module__ == "typing" and is_typeddict(hint) and not getattr(hint, "__parameters__", ()):
        if hint not in replaced:
            make: Any = typing_extensions.TypedDict
            new = replaced[hint] = make(hint.__name__, {})
            new.__module__, new.__qualname__ = hint.__module__, hint.__qualname__
            for name, value in get_type_hints(hint, include_extras=True).items():
                # On Python 3.11, `__required_keys__` ignores `Required` and `NotRequired` in text annotations.
                given = {Required: True, NotRequired: False}.get(get_origin(value))
                required = name in hint.__required_keys__ if given is None else given
                bare = value if given is None else get_args(value)[0]
                qualifier: Any = Required if required else NotRequired
                new.__annotations__[name] = qualifier[_replace_typed_dicts(bare, replaced)]
        return replaced[hint]
    origin, before = get_origin(hint), get_args(hint)
    after = tuple(_replace_typed_dicts(argument, replaced) for argument in before)
    if all(map(operator.is_, before, after)):
        return hint
    generic: Any = {UnionType: Union, Annotated: Annotated}.get(origin, origin)
    return generic[after]


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else first["msg"]
    reason = message_of(error)
    if "invalid utf-8 sequence" in reason:
        reason += '; a model with such bytes needs ser_json_bytes and val_json_bytes = "base64" in its model_config'
    return reason or type_of(error)  # some errors have no message, such as those of `cryptography`


def _difference(sent: Any, back: Any, *path: object) -> str | None:
    """Describe for an error the first part of `sent` that differs in `back`, and its path; None if nothing differs."""
    if sent == back:
        return None
    parts = _parts(sent, back) if type(sent) is type(back) else None
    if parts is not None:
        found = (_difference(one, other, *path, *name) for name, one, other in parts)
        return next((difference for difference in found if difference is not None), None)
    where = ".".join(map(str, path)) + ": " if path else ""
    arrives = "" if type(sent) is type(back) else f" and would arrive as {type(back).__name__}"
    problem = f"{where}{type(sent).__name__} does not read back equal from JSON{arrives}"
    return f"{problem}: annotate it with its exact type, or use another type"


def _parts(sent: Any, back: Any) -> Iterable[tuple[Sequence[object], Any, Any]] | None:
    """Split two unequal values of the same type into parts.

    The caller treats the values as equal if all parts are equal. For each part, returns its path, the part of `sent`
    and the part of `back`. Returns None if the values have no parts that can be compared one by one, for example
    because two lists have different lengths.
    Returns no parts for two aware datetimes that are equal in UTC: Python never treats times of different zones as
    equal in the hour that is repeated when summer time ends.
    """
    match sent:
        case datetime() if sent.tzinfo is not None and back.tzinfo is not None:
            return [] if sent.astimezone(UTC) == back.astimezone(UTC) else None
        case list() | tuple() if len(sent) == len(back):
            return [([index], one, other) for index, (one, other) in enumerate(zip(sent, back, strict=True))]
        case dict() if sent.keys() == back.keys():
            return [([key], value, back[key]) for key, value in sent.items()]
        case BaseModel():
            kept = ("__dict__", "__pydantic_extra__", "__pydantic_private__")
            return [([], getattr(sent, part), getattr(back, part)) for part in kept]
        case _ if dataclasses.is_dataclass(sent):
            names = [field.name for field in dataclasses.fields(sent)]
            return [([name], getattr(sent, name), getattr(back, name)) for name in names]
    return None


_BASE64 = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_ANY: TypeAdapter[Any] = TypeAdapter(Any, config=_BASE64)
_NAME = _Codec("the name of an argument", _ANY)
_PLAIN = _Codec("the value", _ANY, SCALARS)
_ANY_ARGUMENTS = inspect.signature(lambda *args, **kwargs: (args, kwargs))
