"""Check a commit subject: imperative, at most 72 characters, no full stop (pre-commit, commit-msg)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_THIRD_PERSON = re.compile(r"(adds|fixes|changes|removes|makes|updates|moves|deletes|renames)\b", re.IGNORECASE)


def problem(subject: str) -> str | None:
    """Return the reason that a subject is rejected; None for a good one."""
    if len(subject) > 72:
        return f"the subject has {len(subject)} characters; at most 72 are allowed"
    if subject.endswith("."):
        return "the subject ends with a full stop"
    if not subject[:1].isupper() or _THIRD_PERSON.match(subject):
        return "the subject begins with a capital letter and an imperative: Add, Fix, Move"
    return None


if __name__ == "__main__":
    sys.exit(problem(Path(sys.argv[1]).read_text().splitlines()[0]))
