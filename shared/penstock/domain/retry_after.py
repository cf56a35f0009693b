"""The header `Retry-After`."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """
    Seconds to wait by `Retry-After`: a number or an HTTP date (RFC 9110 section 10.2.3).

    Returns:
        None when there is none, or none that can be read. Never below 0.
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,6})?", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_s)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
