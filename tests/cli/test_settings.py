"""What settings may be."""

import pytest

from snaphold.config import load_settings
from snaphold.errors import SetupError


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"max_backup_mb_per_s": "inf"}, "finite number"),
        ({"max_backup_mb_per_s": "nan"}, "finite number|greater than"),
        ({"max_backup_mb_per_s": "-1"}, "greater than or equal to 0"),
        ({"niceness": "20"}, "less than or equal to 19"),
        ({"io_priority": "high"}, "'normal', 'low' or 'idle'"),
        ({"codec": "xz"}, "'gzip' or 'zstd'"),
        ({"compression_level": "4"}, "0 to 3 for gzip, 1 to 19 for zstd"),
        ({"compression_level": "99"}, "0 to 3 for gzip, 1 to 19 for zstd"),
        ({"codec": "zstd", "compression_level": "0"}, "0 to 3 for gzip, 1 to 19 for zstd"),
    ],
)
def test_a_value_that_does_not_fit(given: dict[str, str], reason: str) -> None:
    """It is refused at once, with its name and what it may be."""
    with pytest.raises(SetupError, match=f"{list(given)[-1]} does not fit: .*({reason})"):
        load_settings(given, None, {})
