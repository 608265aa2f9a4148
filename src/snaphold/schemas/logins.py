"""Logins by OpenStack's and Rackspace's identity APIs, v2.0 and v3."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from snaphold.schemas.base import RequestSchema
from snaphold.schemas.fields import Text


class PasswordCredentials(RequestSchema):
    """A user and its password."""

    username: Text
    password: str = Field(repr=False)


class ApiKeyCredentials(RequestSchema):
    """A user and its API key."""

    username: Text
    api_key: str = Field(alias="apiKey", repr=False)


class TokenCredentials(RequestSchema):
    """A valid token."""

    id: str = Field(repr=False)


class AuthFieldsV2(RequestSchema):
    """The credentials, and the account to log in to."""

    password: PasswordCredentials | None = Field(None, alias="passwordCredentials")
    api_key: ApiKeyCredentials | None = Field(None, alias="RAX-KSKEY:apiKeyCredentials")
    token: TokenCredentials | None = None
    tenant_name: Text | None = Field(None, alias="tenantName")
    tenant_id: Text | None = Field(None, alias="tenantId")

    @model_validator(mode="after")
    def _some_credentials(self) -> Self:
        if self.password is None and self.api_key is None and self.token is None:
            raise ValueError("needs passwordCredentials or RAX-KSKEY:apiKeyCredentials")
        return self


class AuthV2(RequestSchema):
    """``POST /v2.0/tokens``."""

    auth: AuthFieldsV2


class PasswordUser(RequestSchema):
    """A user, by name or by id (both are the same), and its password."""

    name: Text | None = None
    id: Text | None = None
    password: str = Field(repr=False)

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.name is None and self.id is None:
            raise ValueError("needs a name or an id")
        return self


class PasswordMethod(RequestSchema):
    """The method ``password``."""

    user: PasswordUser


class AuthIdentity(RequestSchema):
    """The methods by which the caller authenticates, and their credentials."""

    methods: Annotated[list[str], Field(min_length=1)]
    password: PasswordMethod | None = None
    token: TokenCredentials | None = None

    @model_validator(mode="after")
    def _has_credentials(self) -> Self:
        if "password" in self.methods and self.password is not None:
            return self
        if "token" in self.methods and self.token is not None:
            return self
        raise ValueError("needs the method password or token, and its credentials")


class ProjectScope(RequestSchema):
    """An account, by name or by id (both are the same)."""

    name: Text | None = None
    id: Text | None = None


class Scope(RequestSchema):
    """The account that the token is for."""

    project: ProjectScope | None = None


class AuthFieldsV3(RequestSchema):
    """The credentials, and the account to log in to."""

    identity: AuthIdentity
    scope: Annotated[Scope | None, BeforeValidator(lambda scope: None if scope == "unscoped" else scope)] = None


class AuthV3(RequestSchema):
    """``POST /v3/auth/tokens``."""

    auth: AuthFieldsV3
