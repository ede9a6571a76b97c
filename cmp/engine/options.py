"""`--cfg-options KEY=VALUE ...`: argparse's action for it. It imports nothing slow."""

import argparse
from collections.abc import Iterator


class KeyValues(argparse.Action):
    """Collect KEY=VALUE as {key: value}; an argument of another form is an error that names it.

    A value is a whole number, a number, true, false, None, text, or a list of these: `[a,b]` or `a,b`, or a tuple:
    `(a,b)`. Lists may contain lists. The values are those that mmengine's DictAction gives.
    """

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        found = dict(getattr(namespace, self.dest, None) or {})
        for text in values:
            key, equals, value = text.partition("=")
            if not key or not equals:
                raise argparse.ArgumentError(self, f"expected KEY=VALUE, got {text!r}")
            try:
                found[key] = option_value(value)
            except ValueError as error:
                raise argparse.ArgumentError(self, f"expected KEY=VALUE, got {text!r}: {error}") from error
        setattr(namespace, self.dest, found)


def option_value(text: str) -> object:
    """The value that a text means.

    Raises:
        ValueError: brackets are not closed.
    """
    text = text.strip("'\"").replace(" ", "")
    if _is_enclosed(text):
        values = [option_value(part) for part in _parts(text[1:-1])]
        return tuple(values) if text.startswith("(") else values
    return [option_value(part) for part in _parts(text)] if "," in text else _plain(text)


def _is_enclosed(text: str) -> bool:
    """Whether the bracket that a text begins with is closed by its last letter."""
    if text[:1] + text[-1:] not in ("()", "[]"):
        return False
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if depth == 0:
            return place == len(text) - 1
    return True


def _plain(text: str) -> int | float | bool | str | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), None if text == "None" else text)


def _parts(text: str) -> Iterator[str]:
    """The entries of a list, split at the commas that are in no brackets."""
    depth, begin = {"(": 0, "[": 0}, 0
    for end, letter in enumerate(text):
        if letter in depth:
            depth[letter] += 1
        elif letter in ")]":
            depth["(" if letter == ")" else "["] -= 1
        elif letter == "," and not any(depth.values()):
            yield text[begin:end]
            begin = end + 1
    if any(depth.values()):
        raise ValueError("its brackets are not closed")
    if begin < len(text):
        yield text[begin:]
