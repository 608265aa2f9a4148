"""Types of fields that several resources share."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def no_nul(text: str) -> str:
    """Raise ``ValueError`` if the text contains a NUL character."""
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    return text


def _some_letter_or_digit(text: str) -> str:
    if not any(character.isalnum() for character in text):
        raise ValueError("must contain at least one letter or digit")
    return text


def number_from_digits(text: object) -> object:
    """A string of digits as a number, because some clients send numbers as strings; any other value unchanged."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10 else text


NoNul = AfterValidator(no_nul)
Named = AfterValidator(_some_letter_or_digit)
Text = Annotated[str, NoNul]
Reference = Annotated[str, StringConstraints(max_length=255), NoNul]
GivenReference = Annotated[str, StringConstraints(min_length=1, max_length=255), NoNul]
BackupName = Annotated[str, StringConstraints(min_length=1, max_length=64), NoNul, Named]
InstanceName = Annotated[str, StringConstraints(min_length=1, max_length=255), NoNul, Named]
