"""The progress of a running backup or restore, as clients see it."""

from snaphold.model import Backup, Instance
from snaphold.schemas.progress import ProgressAnswer

_MAX_PERCENT = 99  # of something that has not ended


def progress_of(subject: Backup | Instance) -> ProgressAnswer:
    """The progress of a running backup, or of the restore of an instance."""
    done, expected, rate = subject.done_bytes, subject.expected_bytes, subject.bytes_per_s
    if done is not None and expected is not None:
        expected = max(done, expected)
    left_bytes = max(0, expected - done) if done is not None and expected else None
    return ProgressAnswer(
        step=subject.step,
        done_bytes=done,
        expected_bytes=expected,
        percent=min(_MAX_PERCENT, 100 * done // expected) if done is not None and expected else None,
        bytes_per_s=rate,
        seconds_left=-(-left_bytes // rate) if left_bytes is not None and rate else None,
    )
