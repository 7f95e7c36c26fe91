# SPDX-License-Identifier: Apache-2.0
"""Quoting of one argument in a kernel's command line, so that the kernel reads it as it was given. Called by
`own_command_line`. Pure.

Each system splits its line by its own rules; None is an argument that can't be written by them.
"""

from collections.abc import Callable

Writer = Callable[[str], str | None]

_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\""})


def plain(argument: str) -> str:
    """The argument for Mewz and kernels with unknown rules: in quotation marks if it has spaces."""
    return f'"{argument}"' if not argument or any(c.isspace() for c in argument) else argument


def for_linux(argument: str) -> str | None:
    """The argument for Linux, which has no escapes: it removes quotation marks at both ends of an argument, or of the
    value behind its name, and keeps others, which still begin and end quoted spaces. The forms are tried in turn,
    by what Linux reads.
    """
    end = _end_of_name(argument)
    written = (argument, f'"{argument}"', f'{argument[:end]}="{argument[end + 1 :]}"')
    return next((one for one in written if one and _read_by_linux(one) == argument), None)


def _end_of_name(argument: str) -> int:
    """The place of the `=` behind the name, which may begin with one; the end of the argument if it has none."""
    return argument.find("=", 1) if "=" in argument[1:] else len(argument)


def _read_by_linux(line: str) -> str | None:
    """The argument that Linux reads from a line (next_arg in its lib/cmdline.c); None if several, or not all of it."""
    is_quoted = line.startswith('"')
    text, inside = line[is_quoted:], is_quoted
    for c in text:
        if c.isspace() and not inside:
            return None
        inside ^= c == '"'
    if inside:
        return None
    end = _end_of_name(text)
    if text[end + 1 :].startswith('"'):
        return text[: end + 1] + text[end + 2 :].removesuffix('"')
    return text.removesuffix('"') if is_quoted else text


def by_quotes(argument: str) -> str:
    """Unikraft, Hermit and MirageOS split a line as a shell does: within a pair of `'` everything stands for itself."""
    if argument and argument[0] != "#" and not any(c.isspace() or c in "'\"\\" for c in argument):
        return argument
    if '"' not in argument and "\\" not in argument:
        return f'"{argument}"'
    return "'" + argument.replace("'", "'\"'\"'") + "'"


def for_osv_loader(argument: str) -> str:
    """An option of OSv's loader, which knows a backslash before what would end an argument, and no quotation marks."""
    return "".join(f"\\{c}" if c.isspace() or c == "\\" else c for c in argument)


def for_osv(argument: str) -> str:
    """An argument of the programs that OSv starts, of which some characters end one."""
    if argument and not any(c.isspace() or c in ';&!"\\' for c in argument):
        return argument
    return f'"{argument.translate(_ESCAPED)}"'


def for_rumprun(argument: str) -> str | None:
    """Rumprun's JSON is taken as it is by some, who would keep a backslash that others take away: so there is none."""
    if any(c in "'\"\\" for c in argument):
        return None
    return f"'{argument}'" if not argument or any(c.isspace() for c in argument) else argument


def in_json(argument: str) -> str | None:
    """A text of Rumprun's JSON, for the same reason."""
    return None if '"' in argument or "\\" in argument else f'"{argument}"'
