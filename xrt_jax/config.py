"""Reading configurations: flags or JSON to a ConfigDict, with one clear line for each mistake."""

import difflib
import importlib.util
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from xrt_jax.disk import read_json
from xrt_jax.tree.chain import per_level

PACKAGE = Path(__file__).resolve().parent
# The folder that has configs/: the repository, or what setup.py laid into the installed package.
HOME = PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """{"matcher.loss": ("squared-hinge",), …}"""
    flat = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {prefix + key: value})
    return flat


def parse_flags(argv: list[str]) -> list[str]:
    """A flags_parser for absl's app.run; ValueError in one line for unknown or ill-typed fields of --config."""
    path = _config_path(argv)
    if path:
        given, path = path, find_config(path)
        names = (given, f"config={given}")
        argv = [arg.removesuffix(given) + path if arg.lstrip("-") in names else arg for arg in argv]
    reference = flatten(load_config(path)) if path else {}
    _check_known(_overridden(argv), reference)
    _check_lists_once(_overridden(argv), reference)
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, TypeError, ValueError, AttributeError, KeyError) as error:
        raise ValueError(str(error).splitlines()[0]) from error
    if path:
        config = flags.FLAGS.config
        for key in _overridden(argv):
            _set(config, key, settle(key, _get(config, key), reference[key]))
    return rest


def find_config(path: str) -> str:
    """The path of a configuration file, or where this package has it if there is no such file here.

    A colon and what stands behind it stay. FileNotFoundError names the files that there are.
    """
    name, colon, argument = path.partition(":")
    if Path(name).suffix == ".json":
        raise ValueError(f"--config={path} is JSON: use configs/json.py:{path}, or configs/pecos.py:{path} for PECOS's")
    file = next((file for file in (Path(name), HOME / name) if file.is_file()), None)
    if file is None:
        known = ", ".join(f"configs/{file.name}" for file in sorted(HOME.glob("configs/*.py")))
        raise FileNotFoundError(f"--config={path}: there is no such file; it may be one of your own or {known}")
    return f"{file}{colon}{argument}"


def load_config(path: str) -> ConfigDict:
    """The ConfigDict that the get_config of a configuration file, named as for find_config, returns."""
    name, *argument = find_config(path).split(":", 1)
    file = Path(name)
    for folder in (str(HOME), str(file.parent.parent.resolve())):  # a configuration starts from configs.default
        if folder not in sys.path:
            sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location("config_file", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{file} has no function get_config: see configs/default.py")
    return module.get_config(*argument)


def settle(key: str, value, reference):
    """The value with the types of the file's own; flags leave the entries of tuples unchecked."""
    if not isinstance(reference, tuple):
        return value
    if isinstance(value, tuple) and any(isinstance(entry, str) for entry in value):
        value = tuple(part for entry in value for part in str(entry).split(",") if part)
    kind = type(reference[0]) if reference else str
    try:
        settled = tuple(kind(entry) for entry in value)
        fits = kind is not int or all(entry == float(given) for entry, given in zip(settled, value, strict=True))
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise ValueError(f"config field {key!r} takes {kind.__name__} values separated by commas, not {value!r}")
    return settled


def settings_of_level(config: ConfigDict, level: int, nr_levels: int, prefix: str) -> dict[str, object]:
    """The fields of a section for one level: tuples by per_level, other fields as they are."""
    return {
        key: per_level(f"{prefix}.{key}", value, nr_levels)[level] if isinstance(value, tuple) else value
        for key, value in config.items()
    }


def to_json(config: ConfigDict) -> dict[str, object]:
    """The flat configuration as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(flatten(config)))


def format_config(config: ConfigDict) -> str:
    """to_json as text, a field a line."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in flatten(config).items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def read_fields(path: str | Path) -> dict[str, object]:
    """The flat configuration that a JSON file holds; FileNotFoundError or ValueError in one line where it has none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file; it is to hold what --print_config prints")
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise ValueError(f"{path} holds no JSON object with the fields of a configuration")
    return fields


def from_json(config: ConfigDict, fields: dict[str, object], source: str | Path) -> ConfigDict:
    """The configuration with these fields of to_json; ValueError names the source and field that does not fit."""
    reference = flatten(config)
    for key, value in fields.items():
        if key not in reference:
            raise ValueError(f"{source}: unknown config field {key!r}: {_nearest(key, reference)}")
        set_field(config, key, value, source)
    return config


def set_field(config: ConfigDict, key: str, value, source: str | Path) -> None:
    """Sets a field such as "matcher.loss" to a value of its kind; None only where the configuration has None too."""
    reference = _get(config, key)
    is_whole = isinstance(reference, bool) or not isinstance(value, bool)  # to Python, True is a number too
    try:
        if isinstance(reference, tuple) != isinstance(value, list | tuple) or not is_whole:
            raise TypeError
        if value is None and reference is not None:
            raise TypeError
        _set(config, key, settle(key, tuple(value), reference) if isinstance(reference, tuple) else value)
    except TypeError:
        section, _, name = key.rpartition(".")
        kind = "a list" if isinstance(reference, tuple) else f"a value like {json.dumps(reference)}"
        if reference is None:
            kind = f"null or {(_get(config, section) if section else config).get_type(name).__name__}"
        raise ValueError(f"{source}: config field {key!r} takes {kind}, not {value!r}") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def differences(old: dict[str, object], new: dict[str, object]) -> list[str]:
    """Fields in which two flat configurations differ, as "key: old -> new"."""
    keys = sorted(old.keys() | new.keys())
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def override(config: ConfigDict, fields: Mapping[str, object]) -> None:
    """Sets fields by their dotted names, such as {"matcher.max_steps": (30, 50)}; ValueError for unknown or ill-typed.

    A field that holds a value a level takes a single one, too.
    """
    reference = flatten(config)
    _check_known(fields, reference)
    for key, value in fields.items():
        is_tuple = isinstance(reference[key], tuple)
        if is_tuple and not isinstance(value, tuple):
            value = tuple(value) if isinstance(value, list) else (value,)
        try:
            _set(config, key, settle(key, value, reference[key]))
        except TypeError as error:
            raise ValueError(f"config field {key!r}: {error}") from None


def command(config: ConfigDict, default: ConfigDict) -> str:
    """The command that runs this configuration: flags for all fields that differ from configs/default.py, `default`."""
    old, new = flatten(default), flatten(config)
    flags_of_fields = [
        f"--config.{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for key, value in new.items()
        if value != old[key]
    ]
    words = ["python", "-m", "xrt_jax.main", "--config=configs/default.py", "--workdir=WORKDIR", *flags_of_fields]
    return shlex.join(words)


def _check_known(keys: Iterable[str], reference: dict[str, object]) -> None:
    for key in keys:
        if key not in reference:
            raise ValueError(f"unknown config field {key!r}: {_nearest(key, reference)}")


def _check_lists_once(keys: list[str], reference: dict[str, object]) -> None:
    """absl would join the values of a list that is given twice, and take the last one of any other field."""
    for key in keys:
        if keys.count(key) > 1 and isinstance(reference[key], tuple):
            raise ValueError(f"--config.{key} is given {keys.count(key)} times: give its values once, with commas")


def _config_path(argv: list[str]) -> str | None:
    for i, arg in enumerate(argv):
        name, equals, value = arg.lstrip("-").partition("=")
        if arg.startswith("-") and name == "config":
            return value if equals else (argv[i + 1] if i + 1 < len(argv) else None)
    return None


def _overridden(argv: list[str]) -> list[str]:
    names = [arg.lstrip("-").partition("=")[0] for arg in argv if arg.startswith("-")]
    return [name.removeprefix("config.") for name in names if name.startswith("config.")]


def _nearest(key: str, reference: dict[str, object]) -> str:
    last = key.rpartition(".")[2]
    same_end = [known for known in reference if known.rpartition(".")[2] == last]
    close = same_end or difflib.get_close_matches(key, reference, 3, 0.5)
    sections = sorted({known.partition(".")[0] for known in reference})
    return f"did you mean {', '.join(close)}?" if close else f"the sections are {', '.join(sections)}"


def _get(config: ConfigDict, key: str):
    for part in key.split("."):
        config = config[part]
    return config


def _set(config: ConfigDict, key: str, value) -> None:
    section, _, name = key.rpartition(".")
    (_get(config, section) if section else config)[name] = value
