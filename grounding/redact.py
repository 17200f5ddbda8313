"""Remove secrets from text that is kept or shown: configurations, command lines, addresses, messages.

A secret is recognized by the name before it (`api_key`, but not `api_key_env`, which names a variable; `hub_token`,
but not `eos_token`), by its place in an address, or by the prefix of well-known keys.
"""

from __future__ import annotations

import re

HIDDEN = "(not shown)"

_NAME = (
    r"(?:(?:[\w.-]*[._-])?"
    r"(?:(?:api|access|secret|private|auth)[._-]?key|secret|passw(?:or)?d|passphrase|credentials?|cookie"
    r"|authorization|(?:hf|hub|api|access|auth|bearer|refresh|session|secret|wandb|github)[_-]?token)"
    r"|(?:[\w.-]*\.)?token)"
)
_VALUE = r""""(?:[^"\\]|\\.)*"|'[^']*'|(?:(?:bearer|basic|digest|token)\s+)?[^\s"',;&}\])]+"""
_LINE = re.compile(rf"(?im)^(\s*(?:-\s+)?{_NAME}\s*:)(?!\S).*$")
_NAMED = re.compile(rf"""(?i)((?<![\w.-])(?:--)?{_NAME}["']?\s*[:=]\s*|(?<!\S)--{_NAME}\s+)(?!\(not)({_VALUE})""")
_BEARER = re.compile(r"(?i)\b((?:bearer|basic)\s+)(?=[\w.~+/-]*\d)[\w.~+/-]{8,}=*")
_USER = re.compile(
    r"""(?i)\b([a-z][a-z0-9+.-]{0,20}://)(?:[^\s/?#"'@]{0,300}|[^\s/?#"':@]{1,99}:(?!\d+[/?#])[^\s"']{0,200})@"""
)
_KNOWN = re.compile(r"\b(?:sk-|hf_|gh[pousr]_|github_pat_|xox[abp]-|AKIA)[\w-]{12,}")


def redact(text: str) -> str:
    """`text` with what looks like a secret replaced by `HIDDEN`, or by ``***`` within an address.

    >>> redact("{api_key: abc, api_key_env: NAME} at http://me:pw@host/v1?token=t")
    '{api_key: (not shown), api_key_env: NAME} at http://***@host/v1?token=(not shown)'
    """

    def hide(match: re.Match[str]) -> str:
        quote = match[2][0] if match[2][0] in "\"'" else ""
        return f"{match[1]}{quote}{HIDDEN}{quote}"

    text = _USER.sub(r"\1***@", text)
    text = _LINE.sub(rf"\1 {HIDDEN}", text)
    text = _NAMED.sub(hide, text)
    return _KNOWN.sub(HIDDEN, _BEARER.sub(rf"\1{HIDDEN}", text))
