"""The progress of a running backup or restore."""

from snaphold.schemas.base import AnswerSchema


class ProgressAnswer(AnswerSchema):
    """The progress of a running backup or restore. A value that is not known yet is null.

    Bytes are those of the source's files, or of the stream that is extracted. The rate is that of the last ten seconds.
    """

    step: str | None
    done_bytes: int | None
    expected_bytes: int | None
    percent: int | None
    bytes_per_s: int | None
    seconds_left: int | None
