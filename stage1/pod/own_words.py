# SPDX-License-Identifier: Apache-2.0
"""One word of a kernel's command line, so that the kernel reads it as it was given. Called by `own_command_line`. Pure.

Each system splits its line by rules of its own; what can't be written by them is no word (None).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Writer = Callable[[str], "str | None"]

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\""})


def plain(word: str) -> str:
    """Mewz and kernels of unknown rules: in quotation marks if it has spaces, for whoever knows these."""
    return f'"{word}"' if not word or any(c.isspace() for c in word) else word


def for_linux(word: str) -> str | None:
    """Linux has no escapes: it takes marks away at both ends of a word, or of the value behind the first `=`, and keeps
    others, which yet begin and end what spaces are part of. What it reads is tried.
    """
    name, sign, value = word.partition("=")
    written = (word, f'"{word}"', f'{name}{sign}"{value}"')
    return next((one for one in written if one and _read_by_linux(one) == word), None)


def _read_by_linux(line: str) -> str | None:
    """The word that Linux makes of a line (next_arg in its lib/cmdline.c); None if it makes several, or skips some."""
    is_quoted = line.startswith('"')
    text, inside = line[is_quoted:], is_quoted
    for c in text:
        if c.isspace() and not inside:
            return None
        inside ^= c == '"'
    if inside:
        return None
    name, _, value = text.partition("=")
    if name and value.startswith('"'):
        return f"{name}=" + value[1:].removesuffix('"')
    return text.removesuffix('"') if is_quoted else text


def by_quotes(word: str) -> str:
    """Unikraft, Hermit and MirageOS split a line as a shell does: within a pair of `'` everything stands for itself."""
    if word and word[0] != "#" and not any(c.isspace() or c in "'\"\\" for c in word):
        return word
    if '"' not in word and "\\" not in word:
        return f'"{word}"'
    return "'" + word.replace("'", "'\"'\"'") + "'"


def for_osv_loader(word: str) -> str:
    """An option of OSv's loader, which knows a backslash before what would end a word, and no quotation marks."""
    return "".join(f"\\{c}" if c.isspace() or c == "\\" else c for c in word)


def for_osv(word: str) -> str:
    """A word of the programs that OSv starts, of which some characters end one."""
    if word and not any(c.isspace() or c in ';&!"\\' for c in word):
        return word
    return f'"{word.translate(_ESCAPED)}"'


def for_rumprun(word: str) -> str | None:
    """Rumprun's JSON is taken as it is by some, who would keep a backslash that others take away: so there is none."""
    if any(c in "'\"\\" for c in word):
        return None
    return f"'{word}'" if not word or any(c.isspace() for c in word) else word


def in_json(word: str) -> str | None:
    """A text of Rumprun's JSON, for the same reason."""
    return None if '"' in word or "\\" in word else f'"{word}"'
