"""Members of a compressed stream."""

from snaphold.formats.manifest import CodecName
from snaphold.stream.compress import compress_block


def member_of(block: bytes | memoryview, level: int = 1, codec: CodecName = "gzip") -> bytes:
    """The whole member of a block."""
    return b"".join(compress_block(memoryview(block), level, codec))
