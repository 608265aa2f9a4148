"""The OpenAPI document, ``/openapi.json``, made from the routes, and the page ``/docs``, which needs no internet."""

from functools import cached_property
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import iter_route_contexts
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from snaphold.api.request_body import BodyOf

_REF: Final = "#/components/schemas/{model}"
_STATIC: Final = "/docs/static"


class DescribedAPI(FastAPI):
    """An application whose OpenAPI document describes the bodies too, which routes read by ``BodyOf``."""

    def setup(self) -> None:
        """Add the document's route. FastAPI's own would write the document anew for each request."""
        self.add_route("/openapi.json", self._show_document, include_in_schema=False)

    @cached_property
    def document(self) -> bytes:
        """The document as JSON. It is written once, because anybody may ask for it as often as they like."""
        return bytes(JSONResponse(self.openapi()).body)

    async def _show_document(self, _request: Request) -> Response:
        return Response(self.document, media_type="application/json")

    def openapi(self) -> dict[str, Any]:
        """The document. It is built once."""
        if self.openapi_schema is None:
            document = super().openapi()
            models = _add_bodies(self, document)
            _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
            schemas = document["components"]["schemas"]
            for name, schema in definitions["$defs"].items():
                if schemas.setdefault(name, schema) != schema:
                    raise ValueError(f"two schemas are called {name}")
            for path in document["paths"].values():
                for operation in path.values():
                    _drop_validation_error(operation)
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            self.openapi_schema = document
        return self.openapi_schema


def add_docs_page(app: FastAPI) -> None:
    """Add the page ``/docs``. Its scripts and styles are those of the package ``fastapi-offline``."""
    app.mount(_STATIC, StaticFiles(directory=str(files("fastapi_offline") / "static")))

    @app.get("/docs", include_in_schema=False)
    def show_docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url=f"{_STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{_STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{_STATIC}/favicon.png",
        )


def _add_bodies(app: FastAPI, document: dict[str, Any]) -> list[type[BaseModel]]:
    models: dict[str, type[BaseModel]] = {}
    for route in iter_route_contexts(app.routes):
        for dependency in getattr(getattr(route, "dependant", None), "dependencies", ()):  # codespell:ignore dependant
            if isinstance(dependency.call, BodyOf) and route.include_in_schema and route.path_format is not None:
                model = dependency.call.model
                models[model.__name__] = model
                for method in route.methods or ():
                    document["paths"][route.path_format][method.lower()]["requestBody"] = {
                        "required": True,
                        "content": {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}},
                    }
    return list(models.values())


def _drop_validation_error(operation: dict[str, Any]) -> None:
    """Remove FastAPI's own 422, which no route answers."""
    answer = operation["responses"].get("422", {})
    if "HTTPValidationError" in str(answer):
        del operation["responses"]["422"]
