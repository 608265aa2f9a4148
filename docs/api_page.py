"""Generates docs/reference/api.md from the OpenAPI document."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_Schema = Mapping[str, Any]
_HEAD: Final = """\
# The API

This page is generated from the code. Every region serves the same description as `/openapi.json`, and as a page at
`/docs`. [differences.md](differences.md) describes how this API differs from those of Rackspace and OpenStack Trove.

Bodies and answers are JSON. Times are `YYYY-MM-DDTHH:MM:SSZ`, in UTC. Unknown keys of a body are ignored, but a key
that resembles a known one gets 400 with the right key. Paths may end in `.json`. Every answer has the id of its request
in `X-Compute-Request-Id`. Every request below `/v1.0/{account}` needs `X-Auth-Token`; the roles of its user determine
what it may do. All routes of a section list the same faults: those that at least one of them can return.

A refusal is `{"<fault>": {"code": 404, "message": "…"}}`. `overLimit` also has `retryAfter`, in seconds, and the header
`Retry-After`, if waiting helps.
"""


class ApiPage:
    """The page for one OpenAPI document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._paths: Mapping[str, Mapping[str, Any]] = document["paths"]
        self._schemas: Mapping[str, Any] = document["components"]["schemas"]
        self._shown: dict[str, None] = {}

    def text(self) -> str:
        """Return the page."""
        parts: dict[str, list[str]] = {}
        for path, operations in self._paths.items():
            for method, operation in operations.items():
                parts.setdefault(operation["tags"][0], []).extend(self._route(method, path, operation))
        lines = [_HEAD, "| code | fault | when |", "| --- | --- | --- |", *self._faults(), ""]
        for title, routes in parts.items():
            lines += [f"## {title[0].upper()}{title[1:]}", "", *routes]
        return "\n".join([*lines, "## Objects", "", *self._objects()]).rstrip() + "\n"

    def _route(self, method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
        yield from (f"### `{method.upper()} {path}`", "", " ".join(operation["description"].split()), "")
        query = [each for each in operation.get("parameters", ()) if each["in"] == "query"]
        if query:
            yield from ("| parameter | type | |", "| --- | --- | --- |")
            for each in query:
                yield f"| `{each['name']}` | {self._type(each['schema'])} | {each.get('description', '')} |"
            yield ""
        if "requestBody" in operation:
            yield from ("| body | type | |", "| --- | --- | --- |")
            yield from self._body(operation["requestBody"]["content"]["application/json"]["schema"], "")
            yield ""
        answers = [self._answer(code, answer) for code, answer in operation["responses"].items() if int(code) < 400]
        faults = [code for code in operation["responses"] if int(code) >= 400]
        yield from (f"Answers {', '.join(sorted(answers))}. Faults: {', '.join(sorted(faults))}.", "")

    def _answer(self, code: str, answer: Mapping[str, Any]) -> str:
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        return f"{code} {self._type(schema)}" if "$ref" in schema else code

    def _body(self, schema: _Schema, above: str) -> Iterator[str]:
        """The rows of a body's fields, those of objects within it by their path."""
        model = self._model(schema)
        for name, field in model.get("properties", {}).items():
            need = "required" if name in model.get("required", ()) else ""
            note = "; ".join(filter(None, (need, field.get("description"))))
            inner, is_list = self._inner(field)
            path = f"{above}{name}{'[]' if is_list else ''}"
            if inner is None:
                yield f"| `{path}` | {self._type(field)} | {note} |"
            else:
                yield f"| `{path}` | {'list of objects' if is_list else 'object'} | {note} |"
                yield from self._body(inner, f"{path}.")

    def _inner(self, field: _Schema) -> tuple[_Schema | None, bool]:
        """The object that a field is, or a list of, or may be; whether it is a list."""
        for choice in field.get("anyOf", (field,)):
            is_list = choice.get("type") == "array"
            schema = choice["items"] if is_list else choice
            if "$ref" in schema and "properties" in self._model(schema):
                return schema, is_list
        return None, False

    def _model(self, schema: _Schema) -> _Schema:
        if "$ref" not in schema:
            return schema
        model: _Schema = self._schemas[schema["$ref"].rsplit("/", 1)[1]]
        return model

    def _type(self, schema: _Schema) -> str:
        if "$ref" in schema:
            name = schema["$ref"].rsplit("/", 1)[1]
            if "enum" in self._schemas[name]:
                return self._type(self._schemas[name])
            self._shown[name] = None
            return f"[{name}](#{name.lower()})"
        if "anyOf" in schema:
            return " or ".join(dict.fromkeys(self._type(choice) for choice in schema["anyOf"]))
        if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
            return " or ".join(f"`{_json(value)}`" for value in values)
        if schema.get("type") == "array":
            return f"list of {self._type(schema.get('items', {}))}"
        return f"{schema.get('type', 'anything')}{_bounds(schema)}"

    def _objects(self) -> Iterator[str]:
        """The objects of answers, as far as they were named; more are named on the way."""
        done: list[str] = []
        while waiting := [name for name in self._shown if name not in done]:
            done.append(waiting[0])
            model = self._schemas[waiting[0]]
            yield from (f"### {waiting[0]}", "", " ".join(model.get("description", "").split()), "")
            yield from ("| key | type | |", "| --- | --- | --- |")
            for name, field in model.get("properties", {}).items():
                optional = "" if name in model.get("required", ()) else "not always there"
                note = "; ".join(filter(None, (optional, field.get("description"))))
                yield f"| `{name}` | {self._type(field)} | {note} |"
            yield ""

    def _faults(self) -> Sequence[str]:
        rows = {
            int(
                code
            ): f"| {code} | `{next(iter(self._model(_schema_of(answer))['properties']))}` | {answer['description']} |"
            for operations in self._paths.values()
            for operation in operations.values()
            for code, answer in operation["responses"].items()
            if int(code) >= 400
        }
        return [rows[code] for code in sorted(rows)]


def _schema_of(answer: Mapping[str, Any]) -> _Schema:
    schema: _Schema = answer["content"]["application/json"]["schema"]
    return schema


def _json(value: object) -> str:
    return (
        {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def _bounds(schema: _Schema) -> str:
    words = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
    }
    said = [text.format(schema[key]) for key, text in words.items() if key in schema]
    return f" ({', '.join(said)})" if said else ""
