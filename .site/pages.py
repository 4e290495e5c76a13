"Notebooks as Markdown pages: what their readers see, with the pictures as files beside them."

import json
import re
from base64 import b64decode
from html import escape
from pathlib import Path

from latex2mathml.converter import convert

#: An output is shown in the first of these forms that it has.
FORMS = "text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/plain"
HIDDEN = re.compile(r"\s*#\|\s*(hide|default_exp)\b")
DEAD = re.compile(r"\s*<style>\.jp-OutputArea-child.*</style>\s*", re.DOTALL)


def joined(lines):
    return lines if isinstance(lines, str) else "".join(lines)


def title_of(cells):
    "The first heading of a notebook, without its mark."
    for c in cells:
        if m := re.match(r"# (.+)", joined(c["source"])):
            return m[1].strip()
    return "untitled"


def with_math(text):
    "Formulas as MathML, which browsers draw themselves; code is left alone."
    parts = re.split(r"(```.*?```|`[^`\n]+`)", text, flags=re.DOTALL)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"\$\$(.+?)\$\$", _block, parts[i], flags=re.DOTALL)
        parts[i] = re.sub(r"(?<![\w$])\$([^$\n]+?)\$(?!\w)", _inline, parts[i])
    return "".join(parts)


def _inline(m):
    return convert(m[1])


def _block(m):
    return "\n\n" + convert(m[1], display="block") + "\n\n"


class Page:
    "One notebook: `text`, and `pictures` by file name."

    def __init__(self, path: Path):
        self.path = path
        self.cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        self.title = title_of(self.cells)
        self.pictures = {}
        parts = [self._cell(c) for c in self.cells]
        self.text = "\n\n".join(p for p in parts if p)

    def _cell(self, c):
        source = joined(c["source"])
        if HIDDEN.match(source):
            return ""
        if c["cell_type"] != "code":
            return with_math(source)
        lines = [line for line in source.split("\n") if not line.startswith("#|")]
        code = "\n".join(lines).strip()
        shown = [self._output(o) for o in c.get("outputs", [])]
        return "\n\n".join(filter(None, [fenced(code, "python"), *shown]))

    def _output(self, o):
        if o["output_type"] == "stream":
            return fenced(joined(o["text"]).rstrip(), "text", "output")
        data = o.get("data", {})
        if "application/vnd.jupyter.widget-view+json" in data:
            return ""  # its picture is the next output
        form = next((f for f in FORMS if joined(data.get(f, "")).strip()), None)
        content = joined(data[form]) if form else ""
        if not content or DEAD.fullmatch(content):
            return ""
        return self._shown(form, content)

    def _shown(self, form, content):
        if form == "text/plain":
            return fenced(content, "text", "output")
        if form == "text/markdown":
            return content
        if form in ("text/html", "image/svg+xml"):
            lines = (line.strip() for line in content.splitlines())
            return f'<div class="output ddnb-view">{" ".join(filter(None, lines))}</div>'
        name = f"{self.path.stem}-{len(self.pictures)}.{form.split('/')[1]}"
        self.pictures[name] = b64decode(content)
        return f"![{escape(self.title)}: output {len(self.pictures)}]({name}){{ .output }}"

    def write(self, to: Path):
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(self.text + "\n", encoding="utf-8")
        for name, picture in self.pictures.items():
            (to.parent / name).write_bytes(picture)


def fenced(text, language, *classes):
    marks = "".join(f" .{c}" for c in (language, *classes))
    return f"````{{{marks} }}\n{text}\n````" if text else ""
