"""What a room exports, read from its text: nothing is imported, so no torch is needed.

A docment is the comment behind an argument; behind the closing bracket it speaks of the result.
"""

import ast
import io
import tokenize
from html import escape
from pathlib import Path

LONGEST = 88  # characters of a signature on one line
HEAD = "argument", "type", "default", "what it is"


def public_names(tree):
    "`__all__` of an exported module."
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def comments_of(text):
    "{line: comment} of a file."
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    return {line: c for line, c in found.items() if not c.startswith("noqa")}


def arguments_of(f):
    "(argument, default or None) in the order of the signature; a method's self is left out."
    a = f.args
    plain = [*a.posonlyargs, *a.args]
    pairs = list(zip(plain, [None] * (len(plain) - len(a.defaults)) + a.defaults))
    if a.vararg:
        pairs.append((a.vararg, None))
    pairs += zip(a.kwonlyargs, a.kw_defaults)
    if a.kwarg:
        pairs.append((a.kwarg, None))
    return [(arg, default) for arg, default in pairs if arg.arg not in ("self", "cls")]


def rows_of(f, comments):
    "(name, kind, default, what it is) of every argument that says something about itself."
    rows = []
    for arg, default in arguments_of(f):
        kind = ast.unparse(arg.annotation) if arg.annotation else ""
        value = "" if default is None else ast.unparse(default)
        rows.append((arg.arg, kind, value, comments.get(arg.end_lineno, "")))
    return rows if any(row[1] or row[3] for row in rows) else []


def signature(f, name):
    "Names and defaults: on one line, or an argument a line."
    words = [_word(f.args, arg, default) for arg, default in arguments_of(f)]
    one = f"{name}({', '.join(words)})"
    if len(one) <= LONGEST:
        return one
    return name + "(\n" + "".join(f"    {w},\n" for w in words) + ")"


def _word(args, arg, default):
    stars = "*" * (arg is args.vararg) + "**" * (arg is args.kwarg)
    return stars + arg.arg + ("" if default is None else f"={ast.unparse(default)}")


def entry(node, comments, level):
    "A function or a class as Markdown."
    out = [f"{'#' * level} {node.name} {{ data-toc-label='{node.name}' }}", ""]
    f = node
    if isinstance(node, ast.ClassDef):
        f = next((n for n in node.body if getattr(n, "name", "") == "__init__"), None)
    call = signature(f, node.name) if f else f"class {node.name}"
    out += ["```python", call, "```", "", words_of(node), ""]
    if f and (rows := rows_of(f, comments)):
        out += [table(rows), ""]
    if isinstance(node, ast.ClassDef):
        out += methods(node)
    return out


def words_of(node):
    return escape(" ".join((ast.get_docstring(node) or "").split()), quote=False)


def methods(node):
    "Public methods in a line each."
    public = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]
    told = [n for n in public if ast.get_docstring(n)]
    return [*[f"- `{signature(n, n.name)}`: {words_of(n)}" for n in told], ""]


def table(rows):
    "Columns that say nothing are left out."
    columns = [c for c in zip(HEAD, *_marked(rows)) if any(c[1:])]
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in zip(*columns)]
    lines.insert(1, "|---" * len(columns) + "|")
    return "\n".join(lines)


def _marked(rows):
    for name, kind, default, words in rows:
        yield f"`{name}`", kind and f"`{kind}`", default and f"`{default}`", words


def _cell(s):
    return escape(s, quote=False).replace("|", "\\|") if s[:1] != "`" else s.replace("|", "\\|")


def room(path: Path, level=3):
    "All that a room exports, as Markdown."
    text = path.read_text(encoding="utf-8")
    tree, comments = ast.parse(text), comments_of(text)
    named = {n.name: n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    out, values = [], []
    for name in public_names(tree):
        if name in named:
            out += entry(named[name], comments, level)
        else:
            values.append(f"`{name}`")
    if values:
        out += ["Values: " + ", ".join(values) + ".", ""]
    return "\n".join(out)
