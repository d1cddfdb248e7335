"""The description of this API as one page to read in a browser: nothing in it runs, and nothing is loaded.

It is made of the same document that `/openapi.json` serves, and told to the same callers: whoever asks.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeAlias

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from orchestrator.export.page import Pages

router: Final = APIRouter(include_in_schema=False)

_HERE: Final = Path(__file__).parent
_PAGES: Final = Pages(_HERE / "manual.html.j2", _HERE / "manual.css")
_REF: Final = "#/components/schemas/"
_LIMITS: Final = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "minLength": "characters at least",
    "maxLength": "characters at most",
    "minItems": "items at least",
    "maxItems": "items at most",
    "pattern": "fits",
    "default": "by default",
}

_DEEPEST: Final = 5
"""Objects in each other that an example shows; no body here needs more."""

_Schema: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of what a type is called; `schema` names the one that it links to, if any."""

    text: str
    schema: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter, or a property of a body."""

    name: str
    place: str
    required: bool
    kind: Sequence[Part]
    told: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What may come back, by its status."""

    status: str
    told: str
    media: str
    kind: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Operation:
    """One verb of one address."""

    anchor: str
    verb: str
    path: str
    told: str
    parameters: Sequence[Field]
    body: Sequence[Part]
    answers: Sequence[Answer]
    curl: str


@dataclass(frozen=True, slots=True)
class Group:
    """Operations of one tag."""

    name: str
    operations: Sequence[Operation]


@dataclass(frozen=True, slots=True)
class Shape:
    """A schema that bodies and answers refer to: its fields, or what else it is."""

    name: str
    told: str
    fields: Sequence[Field]
    kind: Sequence[Part]


@router.get("/docs")
def manual(request: Request) -> Response:
    """Show the description of this API to a person."""
    content = written(request.app.openapi())
    # the page has one style sheet, which the policy of every other answer would not let a browser apply
    headers = {"Content-Security-Policy": f"{_PAGES.policy}; frame-ancestors 'none'"}
    return Response(content, media_type="text/html; charset=utf-8", headers=headers)


def written(document: Mapping[str, Any]) -> bytes:
    """Return an OpenAPI document as a page of HTML; the same document gives the same bytes."""
    schemas = document["components"]["schemas"]
    page = {
        "title": document["info"]["title"],
        "version": document["info"]["version"],
        "told": document["info"].get("description", ""),
        "groups": _groups(document, schemas),
        "shapes": [_shape(name, schemas[name]) for name in sorted(schemas)],
    }
    return _PAGES.written(page)


# --- operations -----------------------------------------------------------------------------------------------


def _groups(document: Mapping[str, Any], schemas: Mapping[str, _Schema]) -> Sequence[Group]:
    under: dict[str, list[Operation]] = {}
    for path, verbs in document["paths"].items():
        for verb, said in verbs.items():
            tag = (said.get("tags") or ["other"])[0]
            under.setdefault(tag, []).append(_operation(verb.upper(), path, said, schemas))
    return [Group(name, operations) for name, operations in under.items()]


def _operation(verb: str, path: str, said: _Schema, schemas: Mapping[str, _Schema]) -> Operation:
    parameters = [
        Field(
            one["name"],
            one["in"],
            bool(one.get("required")),
            list(_kind(one["schema"])),
            one.get("description", ""),
        )
        for one in said.get("parameters", ())
    ]
    body = _content(said.get("requestBody", {})).get("application/json", {}).get("schema")
    return Operation(
        anchor=f"{verb.lower()}-{path}",
        verb=verb,
        path=path,
        told=said.get("description") or said.get("summary", ""),
        parameters=parameters,
        body=list(_kind(body)) if body else (),
        answers=list(_answers(said.get("responses", {}))),
        curl=_curl(verb, path, parameters, None if body is None else _example(body, schemas)),
    )


def _answers(responses: Mapping[str, _Schema]) -> Iterator[Answer]:
    for status, said in sorted(responses.items()):
        content = _content(said) or {"": {}}
        for media, form in content.items():
            told = said.get("description") or HTTPStatus(int(status)).phrase
            yield Answer(status, told, media, list(_kind(form["schema"])) if form.get("schema") else ())


def _content(said: _Schema) -> Mapping[str, Any]:
    content: Mapping[str, Any] = said.get("content", {})
    return content


def _curl(verb: str, path: str, parameters: Iterable[Field], body: Any) -> str:
    """A call that may be copied: what is needed stands in it in capitals."""
    for one in parameters:
        if one.place == "path":
            path = path.replace(f"{{{one.name}}}", one.name.upper())
    query = "&".join(f"{p.name}={p.name.upper()}" for p in parameters if p.place == "query" and p.required)
    said = [f'curl -s{"" if verb == "GET" else f" -X {verb}"} "$URL{path}{"?" if query else ""}{query}"']
    said.append('-H "Authorization: Bearer $KEY"')
    if body is not None:
        said.append("-H 'Content-Type: application/json'")
        said.append(f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}")
    return " \\\n  ".join(said)


def _example(schema: _Schema, schemas: Mapping[str, _Schema], depth: int = 0) -> Any:
    """A value of the form of a schema, with what it must have and nothing else."""
    schema = _resolved(schema, schemas)
    for key in ("const", "default"):
        if schema.get(key) is not None:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object" and depth < _DEEPEST:
        must, known = schema.get("required", ()), schema.get("properties", {})
        return {name: _example(known[name], schemas, depth + 1) for name in must if name in known}
    if kind == "array":
        return [_example(schema["items"], schemas, depth + 1)] if schema.get("minItems") else []
    number = schema.get("minimum", 1)
    return {"integer": number, "number": number, "boolean": True, "object": {}}.get(str(kind), "…")


def _resolved(schema: _Schema, schemas: Mapping[str, _Schema]) -> _Schema:
    """A schema itself, where this one only refers to it or to one of several."""
    if "$ref" in schema:
        return _resolved(schemas[schema["$ref"].removeprefix(_REF)], schemas)
    several = [one for one in _several(schema) if one.get("type") != "null"]
    return _resolved(several[0], schemas) if several else schema


# --- types ----------------------------------------------------------------------------------------------------


def _shape(name: str, schema: _Schema) -> Shape:
    must = schema.get("required", ())
    fields = [
        Field(field, "", field in must, list(_kind(said)), said.get("description", ""))
        for field, said in schema.get("properties", {}).items()
    ]
    return Shape(name, schema.get("description", ""), fields, () if fields else list(_kind(schema)))


def _kind(schema: _Schema) -> Iterator[Part]:
    yield from _named(schema)
    limits = [
        f"{told} {json.dumps(schema[key], ensure_ascii=False)}"
        for key, told in _LIMITS.items()
        if schema.get(key) is not None
    ]
    if limits:
        yield Part(f" ({', '.join(limits)})")


def _named(schema: _Schema) -> Iterator[Part]:
    several = _several(schema)
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        yield Part(name, name)
    elif several:
        for number, one in enumerate(several):
            if number:
                yield Part(" or ")
            yield from _kind(one)
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        yield Part(" | ".join(json.dumps(value, ensure_ascii=False) for value in values))
    elif schema.get("type") == "array":
        yield Part("list of ")
        yield from _kind(schema.get("items", {}))
    else:
        yield Part(" ".join(filter(None, (str(schema.get("type", "anything")), schema.get("format")))))


def _several(schema: _Schema) -> Sequence[_Schema]:
    found: Sequence[_Schema] = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf") or ()
    return found
