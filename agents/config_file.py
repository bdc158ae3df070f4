"""Reads the files people write (tenants.yaml, catalog.yaml) and says what is wrong on which line.

YAML as people mean it: ``no``, ``1:30`` and ``2026-11-01`` are texts (YAML 1.2 core schema), no key
may stand twice, and nothing but plain data is constructed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError

from fairlane.errors import Reject
from fairlane.schemas.base import WireModel
from fairlane.schemas.catalog import CatalogFile, Provider
from fairlane.schemas.codec import violation, violations
from fairlane.schemas.tenant import TenantsFile

F = TypeVar("F", bound=WireModel)
Path = tuple[str | int, ...]
Problem = tuple[Path, str]

FILE_BYTES_MAX = 16 * 1024 * 1024
_DEPTH_MAX = 50
_PROBLEMS_SHOWN = 20
# libyaml reads ten thousand tenants in a tenth of the time; the wheel has it, a source build may not.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]{0,17})", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9]{1,30}\.[0-9]{0,30}|\.[0-9]{1,30}|[0-9]{1,30}(?=[eE]))([eE][-+]?[0-9]{1,3})?",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL", "~nN"),
    ("merge", r"<<", "<"),
)
"""Tag, pattern and first characters of the plain scalars that are not text."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The table in PyYAML's form: by first character; the empty scalar, which is null, stands under the empty text."""
    table = {"": [("tag:yaml.org,2002:null", re.compile(""))]}
    for tag, pattern, first in _SCALARS:
        for character in first:
            row = (f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"))
            table.setdefault(character, []).append(row)
    return table


class _Loader(_Base):  # type: ignore[misc]  # one of two classes of the same interface
    """A safe loader with the scalars of YAML 1.2's core schema (section 10.3.2), less its infinities."""

    yaml_implicit_resolvers = _resolvers()


@dataclass(frozen=True, slots=True)
class ConfigFile(Generic[F]):
    """A file that is as its schema says, and where in it everything stands."""

    content: F
    source: str
    root: yaml.Node

    def reject(self, problems: Sequence[Problem]) -> Reject:
        """The error to raise for problems found later, such as a name that does not exist."""
        return _rejection(self.source, self.root, problems)


def read_tenants_file(text: str, source: str) -> ConfigFile[TenantsFile]:
    """Parse tenants.yaml. Raises :class:`~fairlane.errors.Reject` naming file, line, field and rule.

    ``source`` is the file's name as the person gave it.
    """
    file = _read(TenantsFile, text, source)
    names = [tenant.tenant_id for tenant in file.content.tenants]
    problems = list(_twice(names, ("tenants",), "tenant_id"))
    if problems:
        raise file.reject(problems)
    return file


def read_catalog_file(
    text: str, source: str, environment: Callable[[str], str | None] = lambda _name: None
) -> ConfigFile[CatalogFile]:
    """Parse catalog.yaml; raises as :func:`read_tenants_file`.

    ``environment`` gives the value of a variable, for a ``base_url`` that is ``env:NAME``.
    Whether providers, pools and models that are named exist is checked when it is known what is
    applied already (:func:`~fairlane.agents.config_plan.plan_catalog`).
    """
    file = _read(CatalogFile, text, source)
    content = file.content
    models = [model.model for model in content.models]
    pools = [pool.pool for pool in content.pools]
    problems = [
        *_twice([provider.provider for provider in content.providers], ("providers",), "provider"),
        *_twice(pools, ("pools",), "pool"),
        *_twice(models, ("models",), "model"),
    ]
    # Kafka refuses a second topic whose name differs in these only: their metric names would collide.
    problems += _twice([pool.replace(".", "_") for pool in pools], ("pools",), "pool", "the same but for . and _ as")
    for route, candidates in content.routes.items():
        if route in models:
            problems.append((("routes", route), "has the name of a model; a request could mean either"))
        problems += _twice(candidates, ("routes", route), None)
    providers = []
    for index, provider in enumerate(content.providers):
        address, problem = _address(provider.base_url, environment)
        providers.append(provider.model_copy(update={"base_url": address}))
        problems += [(("providers", index, "base_url"), problem)] if problem else []
    if problems:
        raise file.reject(list(dict.fromkeys(problems)))
    return replace(file, content=content.model_copy(update={"providers": providers}))


def _address(written: str, environment: Callable[[str], str | None]) -> tuple[str, str]:
    """The address and what is wrong with it; never its value, for anything may stand in a variable."""
    if not written.startswith("env:"):
        return written, ""
    name = written.removeprefix("env:")
    value = (environment(name) or "").strip()
    if not value:
        return written, f"names the variable {name}, which is not set where the file is applied"
    try:
        return Provider.model_validate({"provider": "any", "base_url": value}).base_url, ""
    except ValidationError as failure:
        return written, f"names the variable {name}, whose value {violation(failure).message}"


def _read(model: type[F], text: str, source: str) -> ConfigFile[F]:
    if len(text) > FILE_BYTES_MAX:
        raise Reject(f"{source}: larger than {FILE_BYTES_MAX} bytes")
    try:
        _check_depth(text, source)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                raise Reject(f"{source}: the file is empty")
            duplicates = list(_duplicate_keys(root))
            if duplicates:
                line, key = duplicates[0]
                raise Reject(f"{source}:{line}: the key {key} stands twice in one object; keep one of them")
            content = loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as failure:
        mark = failure.problem_mark or failure.context_mark
        where = f":{mark.line + 1}" if mark else ""
        raise Reject(f"{source}{where}: not valid YAML: {failure.problem or failure.context}") from None
    except yaml.YAMLError:
        raise Reject(f"{source}: not valid YAML: a character that YAML does not allow") from None
    try:
        return ConfigFile(model.model_validate(content), source, root)
    except ValidationError as failure:
        paths: list[Path] = [_path(item["loc"]) for item in failure.errors(include_url=False, include_input=False)]
        rules = [rule for _, rule in violations(failure)]
        raise _rejection(source, root, list(zip(paths, rules, strict=True))) from None


def _check_depth(text: str, source: str) -> None:
    """libyaml composes by recursion in C, where too deep a file would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEPTH_MAX:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise Reject(f"{source}:{line}: nested deeper than {_DEPTH_MAX} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _duplicate_keys(root: yaml.Node) -> Iterator[tuple[int, str]]:
    waiting, seen_nodes = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen_nodes:
            continue
        seen_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        yield key.start_mark.line + 1, key.value
                    keys.add(key.value)
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)


def _twice(names: Sequence[str], path: Path, field: str | None, words: str = "the same as") -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            where = path_text((*path, first[name]))
            yield (*path, index, *([field] if field else [])), f"is {words} {where}"
        first.setdefault(name, index)


def path_text(path: Path) -> str:
    """``tenants[3].weight``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _path(loc: tuple[str | int, ...]) -> Path:
    return tuple(part for part in loc if isinstance(part, int) or not (part == "[key]" or part.startswith("#")))


def _rejection(source: str, root: yaml.Node, problems: Sequence[Problem]) -> Reject:
    lines = []
    for path, rule in problems[:_PROBLEMS_SHOWN]:
        field = path_text(path)
        lines.append(f"{source}:{_line(root, path)}: {field + ' ' if field else ''}{rule}")
    if len(problems) > _PROBLEMS_SHOWN:
        lines.append(f"and {len(problems) - _PROBLEMS_SHOWN} more")
    return Reject("\n  ".join([f"{source} has {len(problems)} problems:", *lines]) if len(lines) > 1 else lines[0])


def _line(root: yaml.Node, path: Path) -> int:
    """The line (from 1) of the deepest node on the path; of a key where there is one."""
    node, line = root, root.start_mark.line
    for part in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        elif isinstance(node, yaml.MappingNode):
            match = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if match is None:
                break
            line, node = match[0].start_mark.line, match[1]
        else:
            break
    return line + 1
