"""Arguments and results arrive unchanged and with their type, or are refused. For authors of `job.arguments`."""

from __future__ import annotations

import json
import math
import re
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, NoReturn, NotRequired, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, SecretStr, computed_field
from typing_extensions import TypedDict

from queueport.errors import ConfigurationError, InvalidJob
from queueport.job.arguments import FORMS, Signature, decode_json, decode_plain

if TYPE_CHECKING:
    from somewhere import Session  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

T = TypeVar("T")

encode_plain = Signature(None, None).encode
"""Encodes a call of a task that is known by its name only."""


class Colour(Enum):
    RED = "red"


class Priority(Enum):
    HIGH = 1


@dataclass
class Point:
    x: int
    data: bytes = b""
    nested: list[Point] = field(default_factory=list)


class Address(BaseModel):
    zip_code: str = Field(alias="zipCode")


class Customer(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", strict=True, extra="forbid")

    id: UUID
    since: datetime
    home: Address | None = Field(default=None, alias="homeAddress")
    key: bytes = b""

    @computed_field
    def age(self) -> int:
        return 7


class Portrait(BaseModel):
    image: bytes


class Options(TypedDict, total=False):
    depth: int
    blob: bytes


class Node(typing.TypedDict, total=False):
    size: int
    parent: NotRequired[File]


class Page(typing.TypedDict, Generic[T]):
    items: list[T]


class File(Node):
    name: str
    children: list[Node] | None
    blob: NotRequired[bytes]


@dataclass
class Holder:
    name: str
    kept: Any


class Login(BaseModel):
    password: SecretStr


class Counted(BaseModel):
    _seen: int = PrivateAttr(default=0)


class Recounted(Counted):
    """A subclass of the annotated class Counted: a task would receive a Counted in its place."""


class Meeting(BaseModel):
    at: datetime


def signature(annotation: object, returns: object = None) -> Signature:
    def task(value):  # type: ignore[no-untyped-def]  # annotated below
        """Take one value."""

    task.__annotations__ = {"value": annotation, "return": returns}
    return Signature("app.task", task)


TYPED = [
    (int, 2**60),
    (float, -0.0),
    (float, 1e-320),
    (str, "żółć \N{SNOWMAN} \x00 \U0001f600"),
    (str, ""),
    (bool, True),
    (None, None),
    (bytes, bytes(range(256))),
    (bytes, b""),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=7)),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)),
    (datetime, datetime(2026, 7, 2, 3, 4, tzinfo=ZoneInfo("Europe/Paris"))),
    (datetime, datetime(2026, 7, 2)),  # noqa: DTZ001  # naive datetimes are allowed too
    (date, date(2026, 1, 2)),
    (timedelta, timedelta(days=-3, microseconds=1)),
    (Path, Path("a/b")),
    (Colour, Colour.RED),
    (Priority, Priority.HIGH),
    (int | None, None),
    (int | None, 3),
    (int | str, "3"),
    (dict[int, str], {1: "a", 2: "b"}),
    (dict[str, list[float | None]], {"a": [1.5, None]}),
    (dict[UUID, Decimal], {UUID(int=1): Decimal(3)}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], ()),
    (set[int], {1, 2}),
    (frozenset[str], frozenset("ab")),
    (list[bytes], [b"\xff"]),
    (Annotated[int, Field(gt=0)], 1),
    (Any, {"a": [1, 2.5, None, True, "x", {}]}),
    (Point, Point(1, b"\xff", [Point(2, b"\xfe")])),
    (list[Point], [Point(1, b"\xff")]),
    (Options, {"depth": 1, "blob": b"\xff"}),
    (Customer, Customer(id=UUID(int=1), since=datetime(2026, 1, 1, tzinfo=UTC), key=b"\xff")),
    (Customer, Customer(id=UUID(int=1), since=datetime(2026, 1, 1, tzinfo=UTC), homeAddress=Address(zipCode="1"))),
    (dict[str, Customer | Address], {"a": Address(zipCode="7")}),
    (Portrait, Portrait(image=b"text is well")),
]


@pytest.mark.parametrize(("annotation", "value"), TYPED)
def test_an_argument_and_a_result_arrive_as_the_annotated_type(annotation: object, value: object) -> None:
    typed = signature(annotation, returns=annotation)
    for args, kwargs in ([value], {}), ([], {"value": value}):
        back = typed.decode(typed.encode(args, kwargs))
        assert back == (tuple(args), kwargs)
        assert [type(item) for item in back[0]] == [type(item) for item in args]
    result = typed.decode_result(typed.encode_result(value))
    assert result == value
    assert type(result) is type(value)


def test_a_value_is_converted_to_its_annotation_before_it_is_sent() -> None:
    typed = signature(dict[str, int], returns=Decimal)
    assert typed.decode(typed.encode([{"a": "42"}], {})) == (({"a": 42},), {})
    assert typed.decode_result(typed.encode_result(0.5)) == Decimal("0.5")
    assert signature(Address).decode(signature(Address).encode([{"zipCode": "1"}], {})) == ((Address(zipCode="1"),), {})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(json_values, max_size=4), st.dictionaries(st.text(), json_values, max_size=4))
def test_json_arguments_arrive_equal_and_their_payload_is_json(args: list[Any], kwargs: dict[str, Any]) -> None:
    payload = encode_plain(args, kwargs)
    assert decode_plain(payload) == (args, kwargs)
    assert json.loads(payload) == {"args": args, "kwargs": kwargs}
    assert Signature("elsewhere", None).encode(args, kwargs) == payload


@given(json_values)
def test_a_json_result_arrives_equal(value: Any) -> None:
    def unannotated(value): ...  # type: ignore[no-untyped-def]

    task = Signature("app.task", unannotated)
    data = task.encode_result(value)
    assert task.decode_result(data) == decode_json(data, "the result") == value


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


REFUSED = [
    (Any, (1, 2)),
    (Any, {"a": [(1,)]}),
    (Any, {1: "a"}),
    (Any, {1, 2}),
    (Any, b"a"),
    (Any, math.nan),
    (Any, -math.inf),
    (Any, "\ud800"),
    (Any, {"\ud800": 1}),
    (Any, Decimal(1)),
    (Any, datetime(2026, 1, 1, tzinfo=UTC)),
    (Any, Colour.RED),
    (Any, Point(1)),
    (Any, Address(zipCode="1")),
    (Any, object()),
    (Any, len),
    (dict, {1: "a"}),
    (dict[str, Any], {"a": (1,)}),
    (list, [(1,)]),
    (float, math.inf),
    (float, math.nan),
    (list[float], [math.nan]),
    (int, "x"),
    (int, None),
    (str, 1),
    (str, "\udcff"),
    (Decimal, Decimal("NaN")),
    (Decimal | str, "1.5"),
    (Sequence[int], (1, 2)),
    (SecretStr, SecretStr("hidden")),
    (Login, Login(password=SecretStr("hidden"))),
    (dict[str, SecretStr], {"a": SecretStr("hidden")}),
    (Point, Point("5")),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    (Portrait, Portrait(image=b"\xff")),
    (Counted, Recounted()),
    (Callable[[], int], len),
    (dict[tuple[int, int], str], {(1, 2): "a"}),
]


def outcome(typed: Signature, value: object) -> bytes | str:
    try:
        return typed.encode([value], {})
    except InvalidJob as error:
        return str(error)


SCALARS = (str, int, float, bool, None, Any, str | None, int | float, float | int | None, bool | int, str | bool)
scalars = st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.sampled_from([2**63, -0.0, 1e16])


@given(st.sampled_from(SCALARS), scalars | st.text(st.characters(categories=["Cs"])))
def test_a_plain_scalar_is_encoded_and_refused_as_if_it_were_checked_by_decoding_it(
    annotation: object, value: object
) -> None:
    checked = signature(annotation)
    (codec,) = checked._codecs.by_position
    object.__setattr__(codec, "scalars", ())
    assert outcome(signature(annotation), value) == outcome(checked, value)


@pytest.mark.parametrize(("annotation", "value"), REFUSED)
def test_a_value_that_would_not_arrive_equal_is_refused_by_name(annotation: object, value: object) -> None:
    typed = signature(annotation, returns=annotation)
    with pytest.raises(InvalidJob, match=r"^task 'app\.task': argument 'value': "):
        typed.encode([value], {})
    with pytest.raises(InvalidJob, match=r"^task 'app\.task': the result: ") as refused:
        typed.encode_result(value)
    assert "hidden" not in str(refused.value)


def test_a_value_that_is_too_deep_too_long_or_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for value in (loop, nested(5000), [10**5000]):
        for annotation in (Any, list[Any]):
            with pytest.raises(InvalidJob, match="'value'"):
                signature(annotation).encode([value], {})


def test_a_value_that_is_too_deep_only_inside_a_payload_is_refused() -> None:
    deepest = max(depth for depth in range(300) if accepted(nested(depth)))
    assert decode_plain(encode_plain([nested(deepest)], {})) == ([nested(deepest)], {})
    assert decode_json(json.dumps(nested(deepest + 1)).encode(), "the result") == nested(deepest + 1)


def accepted(value: Any) -> bool:
    try:
        encode_plain([value], {})
    except InvalidJob:
        return False
    return True


def test_private_attributes_that_would_be_lost_are_refused() -> None:
    counted = Counted()
    assert signature(Counted).encode([counted], {})
    counted._seen = 3
    with pytest.raises(InvalidJob, match="_seen: int does not read back equal"):
        signature(Counted).encode([counted], {})


def test_the_error_says_what_would_arrive_and_which_part_is_wrong() -> None:
    with pytest.raises(InvalidJob, match="tuple does not read back equal from JSON and would arrive as list"):
        signature(Any).encode([(1,)], {})
    with pytest.raises(InvalidJob, match=r"argument 'value': b\.1: Input should be a valid integer"):
        signature(dict[str, list[int]]).encode([{"b": [1, "x"]}], {})
    for value, message in [
        ({"a": (1, 2)}, "a: tuple does not read back equal from JSON and would arrive as list"),
        ([0, {"b": [{3}]}], "1.b.0: set does not read back equal from JSON and would arrive as list"),
        ({"a": [{1: 2}]}, "a.0: dict does not read back equal from JSON"),
        (Holder("x", ((1,),)), "Holder does not read back equal from JSON and would arrive as dict"),
    ]:
        expected = rf"argument 'value': {re.escape(message)}: annotate it with its exact type, or use another type$"
        with pytest.raises(InvalidJob, match=expected):
            signature(Any).encode([value], {})
    with pytest.raises(InvalidJob, match=r"argument 'value': kept\.0: tuple does not read back equal"):
        signature(Holder).encode([Holder("x", [(1,)])], {})
    with pytest.raises(InvalidJob, match="needs ser_json_bytes and val_json_bytes"):
        signature(Portrait).encode([Portrait(image=b"\xff")], {})


@pytest.mark.parametrize(
    ("annotation", "wrap"),
    [
        (File, lambda file: file),
        (dict[str, File | None], lambda file: {"a": file, "b": None}),
        (tuple[File, ...] | None, lambda file: (file, file)),
        (Annotated[list[File | int], "documented"], lambda file: [1, file]),
    ],
    ids=["itself", "in a dict", "in a tuple", "annotated"],
)
def test_the_typed_dict_of_the_standard_library_is_accepted_at_any_depth(
    annotation: object, wrap: Callable[[Any], object]
) -> None:
    root: File = {"name": "/", "children": [{"size": 1}], "blob": b"\xff"}
    typed, value = signature(annotation), wrap({"name": "x", "children": None, "parent": root})
    assert typed.decode(typed.encode([value], {})) == ((value,), {})
    for wrong in ({"name": "x"}, {"name": "x", "children": [{"size": "large"}]}):
        with pytest.raises(InvalidJob, match="children"):
            typed.encode([wrap(wrong)], {})


@pytest.mark.parametrize("fold", [0, 1])
def test_a_time_in_the_repeated_hour_at_the_end_of_summer_time_is_accepted(fold: int) -> None:
    twice = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=fold)
    for annotation, value in [
        (datetime, twice),
        (list[datetime | None], [None, twice]),
        (dict[str, tuple[datetime, int]], {"a": (twice, 1)}),
        (Meeting, Meeting(at=twice)),
    ]:
        typed = signature(annotation)
        ((back,), _) = typed.decode(typed.encode([value], {}))
        assert twice.astimezone(UTC).isoformat() in text_in_utc(back)


def text_in_utc(value: Any) -> str:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case Meeting():
            return text_in_utc(value.at)
        case dict():
            return text_in_utc(list(value.values()))
        case list() | tuple():
            return " ".join(map(text_in_utc, value))
        case _:
            return repr(value)


def mixed(first: int, /, second: Decimal, *rest: UUID, named: date, default: int = 7, **others: bytes) -> None: ...


MIXED = Signature("app.mixed", mixed)


def test_every_kind_of_parameter_is_typed_and_defaults_are_not_filled_in() -> None:
    args = (1, Decimal("2.50"), UUID(int=3), UUID(int=4))
    kwargs = {"named": date(2026, 1, 1), "extra": b"\xff", "first": b"for **others"}
    payload = MIXED.encode(args, kwargs)
    assert MIXED.decode(payload) == (args, kwargs)
    assert decode_plain(payload)[1] == {"named": "2026-01-01", "extra": "_w==", "first": "Zm9yICoqb3RoZXJz"}


def test_more_forms_of_calls_than_a_task_remembers_can_be_encoded() -> None:
    for number in range(2 * FORMS):
        args, kwargs = (1, Decimal(2)), {"named": date(2026, 1, 1), f"extra_{number}": b"\xff"}
        assert MIXED.decode(MIXED.encode(args, kwargs)) == (args, kwargs)


def test_positional_and_keyword_arguments_stay_as_the_caller_passed_them() -> None:
    payload = MIXED.encode((1,), {"second": Decimal(2), "named": date(2026, 1, 1)})
    assert decode_plain(payload) == ([1], {"second": "2", "named": "2026-01-01"})


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'first'"),
        ((1,), {"named": None}, "missing a required argument: 'second'"),
        ((1, 2), {}, "missing a required .*argument: 'named'"),
        ((1, 2), {"second": 2, "named": None}, "multiple values for argument 'second'"),
        (("x", 2), {"named": "2026-01-01"}, "argument 'first': "),
        ((1, 2, "x"), {"named": "2026-01-01"}, r"argument rest\[0\]: "),
        ((1, 2), {"named": "never"}, "argument 'named': "),
        ((1, 2), {"named": "2026-01-01", "extra": 5}, r"argument others\['extra'\]: "),
        ((1, 2), {"named": "2026-01-01", "\ud800": b""}, "the name of an argument: "),
    ],
    ids=str,
)
def test_a_call_that_does_not_match_the_signature_is_refused_by_parameter(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidJob, match=message):
        MIXED.encode(args, kwargs)


def test_an_argument_that_the_function_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidJob, match=r"task 'app\.task': got an unexpected keyword argument 'valve'"):
        signature(int).encode([1], {"valve": 2})
    with pytest.raises(InvalidJob, match=r"task 'app\.task': too many positional arguments"):
        signature(int).encode([1, 2], {})


def test_a_value_for_a_task_without_signature_is_refused_by_position_or_name() -> None:
    with pytest.raises(InvalidJob, match=r"^argument args\[1\]: set does not read back equal"):
        encode_plain([1, {2}], {})
    with pytest.raises(InvalidJob, match=r"^argument kwargs\['size'\]: "):
        encode_plain([], {"size": (1, 2)})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"args":[]}',
        b'{"args":{},"kwargs":{}}',
        b'{"args":[NaN],"kwargs":{}}',
    ],
)
def test_an_invalid_payload_is_refused(payload: bytes) -> None:
    for read in (decode_plain, signature(int).decode):
        with pytest.raises(InvalidJob):
            read(payload)


def test_a_payload_for_another_signature_is_refused_by_parameter() -> None:
    with pytest.raises(InvalidJob, match=r"task 'app\.task': argument 'value': Input should be a valid integer"):
        signature(int).decode(encode_plain(["x"], {}))
    with pytest.raises(InvalidJob, match="missing a required argument: 'value'"):
        signature(int).decode(encode_plain([], {}))
    with pytest.raises(InvalidJob, match="the result: Input should be a valid integer"):
        signature(int, returns=int).decode_result(b'"x"')


def test_unknown_fields_of_a_payload_are_ignored() -> None:
    assert decode_plain(b'{"args":[1],"kwargs":{},"later":2}') == ([1], {})


def test_annotations_are_resolved_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def early(value: Later) -> Later: ...  # type: ignore[empty-body]

    with monkeypatch.context() as patched:
        patched.delattr(sys.modules[__name__], "Later")
        task = Signature("app.early", early)
    task.resolve()
    assert task.decode(task.encode([Later(1)], {})) == ((Later(1),), {})


@dataclass
class Later:
    x: int


def typo(session: Session, other: int) -> None: ...
def impossible(connection: Signature) -> None: ...
def result(value: int) -> Session: ...
def unfinished(value: list[Unfinished]) -> None: ...


PAYLOAD = encode_plain([1], {})


class Unfinished(BaseModel):
    session: Session


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (typo, "the annotation 'Session' of parameter 'session' cannot be used: name 'Session' is not defined"),
        (impossible, "the annotation 'Signature' of parameter 'connection' cannot be used: Unable to generate"),
        (result, "the annotation 'Session' of the result cannot be used: name 'Session' is not defined"),
        (unfinished, r"the annotation 'list\[Unfinished\]' of parameter 'value' cannot be used: name 'Session'"),
    ],
)
def test_an_annotation_that_cannot_be_resolved_is_named_in_the_error(
    function: Callable[..., Any], message: str
) -> None:
    task = Signature("app.task", function)
    for use in (
        task.resolve,
        lambda: task.encode([1], {}),
        lambda: task.decode(PAYLOAD),
        lambda: task.encode_result(1),
    ):
        with pytest.raises(ConfigurationError, match=f"^task 'app.task': {message}"):
            use()


def test_a_generic_typed_dict_is_converted_or_refused_with_what_to_write() -> None:
    task = signature(Page[Point])
    if sys.version_info >= (3, 12):
        assert task.decode(task.encode([{"items": [Point(1)]}], {})) == (({"items": [Point(1)]},), {})
        return
    says = r"parameter 'value' cannot be used: Please use `typing_extensions.TypedDict` .* on Python < 3.12$"
    with pytest.raises(ConfigurationError, match=says):
        task.resolve()


def test_a_task_annotated_as_never_returning_can_be_used() -> None:
    def fails(value: int) -> NoReturn:
        raise ValueError(value)

    task = Signature("app.fails", fails)
    assert task.decode(task.encode([1], {})) == ((1,), {})


def test_the_result_of_an_async_function_has_its_annotated_type() -> None:
    async def fetch() -> bytes:
        return b"\xff"

    task = Signature("app.fetch", fetch)
    assert task.encode_result(b"\xff") == b'"_w=="'
    assert task.decode_result(b'"_w=="') == b"\xff"


class Unreadable(Exception):
    pass


def unreadable(_: object) -> object:
    raise Unreadable


def test_an_error_without_a_message_is_named_in_the_error_about_the_argument() -> None:
    def function(card: Annotated[str, BeforeValidator(unreadable)]) -> None: ...

    with pytest.raises(InvalidJob, match=r"argument 'card': .*Unreadable"):
        Signature("app.charge", function).encode(["4111"], {})
