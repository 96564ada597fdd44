"""Headless Chromium, for pages: what it makes of one, and what it complains about."""

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


def chromium(path, *flags):
    """What Chromium prints about a page with these flags; skips without it."""
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
