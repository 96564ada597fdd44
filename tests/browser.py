"""Screenshots, measures and errors of pages, by headless Chromium."""

import json
import re
import shutil
import subprocess
import tempfile

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
DARK = "--blink-settings=preferredColorScheme=0"


# Measures itself in the browser, and puts what it finds into the page's title.
PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images], root = document.documentElement;
  document.title = JSON.stringify({
    images: images.length,
    broken: images.filter(i => !i.complete || !i.naturalWidth).length,
    tables: document.querySelectorAll("table").length,
    wide: root.scrollWidth > root.clientWidth,
    scrolls: [...document.querySelectorAll(".scroll")]
      .filter(b => b.scrollWidth > b.clientWidth).length})})</script>"""


def chromium(path, *flags):
    """Output of Chromium for a page; skips without it."""
    program = shutil.which("chromium")
    if not program:
        pytest.skip("chromium is not on this machine")
    with tempfile.TemporaryDirectory() as profile:
        return subprocess.run(
            [program, *FLAGS, f"--user-data-dir={profile}", *flags, f"file://{path}"],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )


def picture(path, out, width, height, *flags):
    """A screenshot of a page in a window of this size, as an array [y, x, colour]."""
    from matplotlib.image import imread

    chromium(path, f"--screenshot={out}", f"--window-size={width},{height}", *flags)
    return imread(out)


def measured(path, width, folder):
    """Measures of a page in a window of this width, without errors."""
    probe = folder / "probe.html"
    probe.write_text(path.read_text() + PROBE)
    shown = chromium(probe, "--dump-dom", f"--window-size={width},900")
    assert "CONSOLE" not in shown.stderr
    return json.loads(re.search(r"<title>(.*?)</title>", shown.stdout)[1])
