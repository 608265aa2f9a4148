import tomllib

from docs.generate import example_file, pages
from snaphold.config import Settings


def test_reference_pages_are_up_to_date() -> None:
    """The generated pages say what the code says; `python -m docs.generate` repairs them."""
    for path, text in pages().items():
        assert path.read_text("utf-8") == text, path


def test_the_example_file_is_a_settings_file() -> None:
    """The example can be used as it is, and changes nothing: it holds the defaults."""
    assert Settings.model_validate(tomllib.loads(example_file())) == Settings()
