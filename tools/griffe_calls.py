"""Show the SDK in the reference as its users call it, and its examples as code."""

from __future__ import annotations

import ast
import re
from typing import Any

from griffe import Attribute, Docstring, ExprCall, ExprKeyword, Extension, Function, Object

_MAKE_METHODS = {"method", "chain"}
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


class Calls(Extension):
    """Show `Operation[T]` as `T`, the description of a pydantic field as its docstring, and Example as Examples."""

    def on_function_instance(self, *, func: Function, **kwargs: Any) -> None:
        """Change a function that `superposed_client._calls` makes a method of."""
        del kwargs
        named = {str(one.value) for one in func.decorators}
        result = getattr(func.returns, "slice", None)
        if named & _MAKE_METHODS and result is not None:
            func.returns = "Self" if "chain" in named else result

    def on_attribute_instance(self, *, attr: Attribute, **kwargs: Any) -> None:
        """Give a field of a result its description and its default."""
        del kwargs
        if not isinstance(attr.value, ExprCall) or str(attr.value.function) != "Field":
            return
        given = {one.name: one.value for one in attr.value.arguments if isinstance(one, ExprKeyword)}
        plain = [one for one in attr.value.arguments if not isinstance(one, ExprKeyword)]
        if "description" in given:
            attr.docstring = Docstring(ast.literal_eval(str(given["description"])), parent=attr)
        attr.value = plain[0] if plain else None

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Name the section of examples as the parser of docstrings does."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub("Examples:", obj.docstring.value)
