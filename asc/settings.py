"""Settings: composed by Hydra; pydantic checks the arguments of the classes built from them."""

import functools
import inspect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field, ValidationError, validate_call
from pydantic_core import ErrorDetails

from asc.errors import InputError

UnitInterval = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]  # a fraction to remove, but never everything
Filters = Annotated[int, Field(ge=1, le=8192)]
Momentum = Annotated[float, Field(gt=0, le=1)]  # batch norm
Epsilon = Annotated[float, Field(gt=0, le=1)]
Scale = Annotated[float, Field(ge=0, le=10)]
SampleRate = Annotated[int, Field(ge=1, le=768_000)]  # Hz
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy's maximum

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)  # no coercion except int to float

PATHS = {
    *("checkpoint", "init", "resume", "teacher.weights", "logger.save_dir", "hydra.run.dir", "hydra.sweep.dir"),
    *("data.root", "data.unlabelled", "data.cache_dir", "data.train_list", "data.test_list"),
}

Init = TypeVar("Init", bound=Callable[..., None])


def literal(override: str, is_sweep: bool = False) -> str:
    """The override as Hydra reads it: with ~ expanded, and quotes where they are needed.

    A path is the text that was typed, though Hydra would read 20240512_060000 as a number and a,b as a sweep. In a
    sweep, commas separate paths. Other values get quotes only if Hydra's grammar rejects them, as it does = and ü.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString
    from hydra.errors import HydraException

    name, _, value = override.partition("=")
    if override.startswith("-") or value in ("", "null") or value[0] + value[-1] in ("[]", "{}", "''", '""'):
        return override
    is_path = name.lstrip("+") in PATHS
    is_list = is_sweep and not name.startswith("hydra.") and "," in value and not set(value) & set("'\"[]{}()")
    if is_path and is_list:
        parts = [literal(f"{name}={part}").removeprefix(f"{name}=") for part in value.split(",")]
        return f"{name}={','.join(parts)}"
    value = os.path.expanduser(value)
    try:
        (read,) = OverridesParser.create().parse_overrides([f"{name}={value}"])
        if read.value() == value or not is_path:
            return f"{name}={value}"
    except HydraException:
        pass
    return f"{name}={QuotedString(value, Quote.double).with_quotes()}"


def compose_settings(command: str, overrides: Sequence[str]) -> DictConfig:
    """The settings of `command`, train or compress, with these overrides."""
    from hydra import compose, initialize_config_dir  # not needed for inference

    package = Path(__file__).parent
    conf = package / "conf"  # an installed package contains its own copy
    with initialize_config_dir(str(conf if conf.is_dir() else package.parent / "conf"), version_base="1.3"):
        return compose(command, [literal(override) for override in overrides])


def checked(group: str) -> Callable[[Init], Init]:
    """Decorate a constructor: its arguments must have the annotated types and ranges.

    Raises:
        InputError: from the constructor, for the first invalid argument, named `group`.NAME.
    """

    def decorate(init: Init) -> Init:
        validated = validate_call(config=STRICT)(init)
        names = list(inspect.signature(init).parameters)

        @functools.wraps(init)
        def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
            named = {**dict(zip(names[1:], args, strict=False)), **kwargs}  # by name, for the messages
            try:
                validated(self, **{name: plain(value) for name, value in named.items()})
            except ValidationError as error:
                raise InputError(sentence(group, error)) from error

        return cast(Init, checked_init)

    return decorate


def plain(value: Any) -> Any:
    """Hydra's lists and dictionaries as Python's."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def sentence(group: str, error: ValidationError) -> str:
    """One sentence on the first invalid value: its name, the value, and what is expected."""
    # prefer an error about an item of a list to one about the list's type
    first, *others = sorted(error.errors(), key=lambda part: -sum(isinstance(step, int) for step in part["loc"]))
    name = setting(group, first)
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown setting {name}: remove it or correct its name"
    if first["type"] in ("missing", "missing_argument"):
        return f"{name} is not set: give it on the command line, as {name}=..."
    # a union reports an error for each of its types
    expected = [described(part) for part in (first, *others) if setting(group, part) == name]
    return f"invalid {name}={shown(first['input'])}: expected {' or '.join(dict.fromkeys(expected))}"


def setting(group: str, error: ErrorDetails) -> str:
    """Name of the setting, such as net.filters[2]."""
    name, *inner = error["loc"]  # followed by indices, and pydantic's names for a union's types
    path = "".join(f"[{part}]" for part in inner if isinstance(part, int))
    return f"{group}.{name}{path}" if group else f"{name}{path}"


def described(error: ErrorDetails) -> str:
    """What pydantic expects, without the leading phrase."""
    words = re.sub(r"^(Input should be|\w+ should have|Value error,) ", "", error["msg"])
    words = words.partition(" after validation")[0]
    return f"a number {words}" if words.startswith(("greater", "less")) else words


def shown(value: Any) -> str:
    """The value as typed on the command line, cut to 60 characters."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
