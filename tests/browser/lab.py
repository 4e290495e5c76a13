"""A private JupyterLab and Chromium: open a notebook, run it, work its controls, read the screen.

One server and one browser serve a whole test session. Everything the server writes goes into a
temporary folder.
"""

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output"
BROKEN = re.compile(
    "Error displaying widget|Failed to load model|Failed to create view"
    "|Error creating widget|Javascript Error"
)
# JupyterLab's own, now and then
HARMLESS = re.compile("ResizeObserver|Canceled|disposed|removeChild.*jlab_core", re.S)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
]

# ---- scripts that run in the page; `window.nb` is the panel of the open notebook
OPEN = """
async ([path, theme]) => {
    const app = window.jupyterapp;
    await app.restored;
    if (document.body.dataset.jpThemeName !== theme)
        await app.commands.execute('apputils:change-theme', {theme});
    const panel = window.nb = await app.commands.execute('docmanager:open', {path});
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    app.shell.collapseLeft();
    app.shell.collapseRight();
}
"""
RUN_ALL = """
() => {
    window.ran = 0;
    window.jupyterapp.commands.execute('notebook:run-all-cells').then(
        () => { window.ran = 1 },
        e => { window.ran = String(e) },
    );
}
"""
STATE = "() => [window.ran, window.nb.sessionContext.session?.kernel?.status ?? 'none']"
SHUTDOWN = "async () => { await window.nb.sessionContext.shutdown() }"
SAVE = "async () => { await window.nb.context.save() }"
TEXT = """
css => [...document.querySelectorAll(css)].map(e => e.innerText || e.textContent).join('\\n')
"""
SCROLL = """
async e => {
    const cells = window.nb.content;
    const i = cells.widgets.findIndex(w => w.node.contains(e));
    if (i >= 0) await cells.scrollToItem(i, 'center');
    const tall = e.getBoundingClientRect().height > 500;  // its top, then, not its middle
    e.scrollIntoView({block: tall ? 'start' : 'center'});
}
"""
# (code, whether into a cell of its own)
RUN_IN_LAST_CELL = """
async ([code, fresh]) => {
    const cells = window.nb.content, run = c => window.jupyterapp.commands.execute(c);
    cells.activeCellIndex = cells.widgets.length - 1;
    if (fresh) await run('notebook:insert-cell-below');
    cells.activeCell.model.sharedModel.setSource(code);
    await run('notebook:run-cell');
}
"""


def chromium():
    "Path of the system's Chromium, or None."
    return (
        os.environ.get("DDNB_CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )


def until(f, what, timeout=15.0, pause=0.1):
    "The first true value of `f()`; fails with `what` (text or function) when time is up."
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        v = f()
        if v:
            return v
        time.sleep(pause)
    raise AssertionError(what() if callable(what) else what)


class Server:
    "JupyterLab on a free port of this machine, with settings, data and workspaces of its own."

    SETTINGS = {
        "docmanager-extension/plugin": {"autosave": False},
        "apputils-extension/notification": {
            "fetchNews": "false",
            "checkForUpdates": False,
            "doNotDisturbMode": True,
        },
    }
    HOMES = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    FIXED = {
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_PLATFORM_DIRS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }

    def __init__(self, folder):
        self.dir, self.token = Path(folder), secrets.token_hex(16)
        self.files = self.dir / "files"
        self.files.mkdir(parents=True)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        for plugin, value in self.SETTINGS.items():
            self.setting(plugin, value)
        args = [
            "--no-browser",
            "--allow-root",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.files}",
            "--LabApp.expose_app_in_browser=True",
            "--ServerApp.terminals_enabled=False",
        ]
        self.log = open(self.dir / "lab.log", "wb")
        self.proc = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *args],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=self.environment(),
            start_new_session=True,
        )
        until(self.answers, lambda: "JupyterLab did not start: " + self.tail(), 90)

    def environment(self):
        "This process's, with the server's own folders and token."
        env = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "IN_TEST")}
        path = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        homes = {k: str(self.dir / v) for k, v in self.HOMES.items()}
        return env | homes | self.FIXED | {"JUPYTER_TOKEN": self.token, "PYTHONPATH": path}

    def tail(self):
        "The end of its log."
        return (self.dir / "lab.log").read_text()[-1500:]

    def setting(self, plugin, value):
        p = self.dir / "settings/@jupyterlab" / f"{plugin}.jupyterlab-settings"
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_text(json.dumps(value))

    def answers(self):
        if self.proc.poll() is not None:
            raise AssertionError("JupyterLab ended: " + self.tail())
        who = {"Authorization": "token " + self.token}
        request = urllib.request.Request(self.url + "/api/status", headers=who)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.suppress(OSError):
            return direct.open(request, timeout=2).status == 200

    def kernel(self, name, extra_path):
        "A further kernel whose PYTHONPATH starts with `extra_path`."
        d = self.dir / "data/kernels" / name
        d.mkdir(parents=True)
        spec = {
            "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": name,
            "language": "python",
            "env": {"PYTHONPATH": os.pathsep.join([str(extra_path), str(ROOT)])},
        }
        (d / "kernel.json").write_text(json.dumps(spec))
        return name

    def close(self):
        for sig, t in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
            if self.proc.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.proc.pid, sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.proc.wait(t)
        self.log.close()


class Notebook:
    "One notebook in one tab; use as a context manager, the kernel is shut down at the end."

    def __init__(
        self,
        server,
        browser,
        nb,
        name="test.ipynb",
        kernel="python3",
        dark=False,
        size=(1280, 1000),
    ):
        import nbformat

        self.server, self.name, self.path = server, name, server.files / name
        nb.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
        nb.metadata.pop("widgets", None)
        for c in nb.cells:
            if c.cell_type == "code":
                c.outputs, c.execution_count = [], None  # nothing old passes for new
        self.path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, self.path)
        self.page = browser.new_page(viewport=dict(width=size[0], height=size[1]))
        self.problems = []
        self.page.on("pageerror", lambda e: self.problems.append(f"{e} {e.stack}"[:1500]))
        self.open(dark)

    def __enter__(self):
        return self

    def __exit__(self, *e):
        self.close()

    def close(self):
        with contextlib.suppress(Exception):
            self.page.evaluate(SHUTDOWN)
        self.page.close()

    def open(self, dark=False):
        p, workspace = self.page, f"{self.server.url}/lab/workspaces/w{secrets.token_hex(3)}"
        url = f"{workspace}/tree/{self.name}?token={self.server.token}&reset"
        p.goto(url, wait_until="domcontentloaded", timeout=60000)
        p.wait_for_function("() => window.jupyterapp && window.jupyterapp.restored", timeout=60000)
        p.evaluate(OPEN, [self.name, "JupyterLab Dark" if dark else "JupyterLab Light"])

    # ---- running
    def begin(self):
        "Starts all cells and returns at once."
        self.page.evaluate(RUN_ALL)
        return self

    def finish(self, timeout=120):
        def over():
            ran, kernel = self.page.evaluate(STATE)
            gone = ("dead", "none", "autorestarting", "terminating")
            assert kernel not in gone, f"the kernel is {kernel}"
            return ran

        until(over, f"not finished after {timeout} s", timeout, 0.2)
        return self

    def run(self, timeout=120):
        return self.begin().finish(timeout)

    def run_here(self, code, fresh=False):
        "Run code in the last cell; in a fresh one below it if asked."
        self.page.evaluate(RUN_IN_LAST_CELL, [code, fresh])

    def cells(self):
        return self.page.evaluate("() => window.nb.content.model.toJSON()")["cells"]

    def errors(self):
        "Errors of cells, from the document and not the screen, and of widgets and scripts."
        bad = []
        for i, c in enumerate(self.cells()):
            if c["cell_type"] != "code":
                continue
            if "".join(c["source"]).strip() and not c.get("execution_count"):
                bad.append(f"cell {i}: was not run")
            if "raises-exception" in c["metadata"].get("tags", []):
                continue
            errors = [o for o in c["outputs"] if o["output_type"] == "error"]
            bad += [f"cell {i}: {o['ename']}: {o['evalue']}" for o in errors]
        scripts = [p for p in self.problems if not HARMLESS.search(p)]
        return bad + BROKEN.findall(self.text()) + scripts

    def save(self):
        self.page.evaluate(SAVE)

    def reread(self):
        "Save, end the kernel, and open the file again as a reader would."
        self.save()
        self.page.evaluate(SHUTDOWN)
        self.page.goto("about:blank")
        self.open()

    # ---- looking
    def text(self, css=OUT):
        return self.page.evaluate(TEXT, css)

    def says(self, regex, timeout=15, css=OUT):
        return until(
            lambda: re.search(regex, self.text(css), re.S),
            lambda: f"{regex!r} is not in {self.text(css)[-1500:]!r}",
            timeout,
        )

    def show(self, css):
        "Brings an element into view and returns its box."
        e = self.page.locator(css).first
        e.wait_for(state="attached", timeout=15000)

        def visible(b):
            if not b or b["width"] <= 1 or b["height"] <= 1:
                return False
            bottom = b["y"] + min(b["height"], 400)
            return b["y"] > 30 and bottom < self.page.viewport_size["height"]

        def box():
            b = e.bounding_box()
            if visible(b):
                return b
            e.evaluate(SCROLL)  # the cell first, because an offscreen cell has no true size
            time.sleep(0.25)

        return until(box, f"{css} cannot be brought into view")

    def pixels(self, css):
        "What is on screen at an element, as an RGB array [h,w,3]."
        import numpy as np
        from PIL import Image

        b = self.show(css)
        b["height"] = min(b["height"], self.page.viewport_size["height"] - b["y"])
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(clip=b))).convert("RGB"))

    def changed(self, css, before, timeout=5.0):
        "Waits until the pixels differ from `before`."
        import numpy as np

        return until(
            lambda: not np.array_equal(self.pixels(css), before),
            f"{css} did not change in {timeout} s",
            timeout,
        )

    def still(self, css, seconds=1.2):
        import numpy as np

        a = self.pixels(css)
        time.sleep(seconds)
        assert np.array_equal(self.pixels(css), a), f"{css} changed"

    def shot(self, path, css=None):
        (self.page.locator(css).first if css else self.page).screenshot(path=str(path))

    # ---- working the controls
    def control(self, label, view=""):
        "The widget that has this description; `view` narrows the search to a CSS class."
        own = self.page.locator(".widget-label").filter(
            has_text=re.compile(rf"^\s*{re.escape(label)}\s*$")
        )
        c = self.page.locator(f"{OUT} {view} .jupyter-widgets").filter(has=own).last
        c.wait_for(state="attached", timeout=15000)
        return c

    def press(self, text, view=""):
        self.page.locator(f"{OUT} {view} button").filter(
            has_text=re.compile(rf"^\s*{re.escape(text)}")
        ).first.click(timeout=15000)

    def slide(self, label, keys, view=""):
        "Keyboard on a slider's handle: 'ArrowRight', 'Home', 'End' ..."
        h = self.control(label, view).locator(".noUi-handle").first
        h.focus()
        for k in [keys] if isinstance(keys, str) else keys:
            h.press(k)

    def type(self, label, value, view=""):
        "A number typed into a slider's readout."
        self.control(label, view).locator(".widget-readout").first.click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(str(value))
        self.page.keyboard.press("Enter")

    def choose(self, label, option, view=""):
        self.control(label, view).locator("select").first.select_option(label=option, timeout=15000)
