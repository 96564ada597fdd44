"""How a page looks: on a phone, on a desk and in print, light and dark."""

_LIGHT = """
--page: #ffffff; --text: #1b1f24; --soft: #57606a; --line: #d5dae0; --box: #f4f6f8;
--link: #0b5cad; --up: #00684b; --down: #ad3800; --warn: #fff4d6; --warn-line: #d99a00;
"""
_DARK = """
--page: #14171b; --text: #e4e7eb; --soft: #a3acb6; --line: #363c44; --box: #1e2329;
--link: #7db8f2; --up: #4cc9a0; --down: #f2935f; --warn: #33290f; --warn-line: #b98a1d;
"""

STYLE = (
    f":root {{ {_LIGHT} }}"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}"
    """
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans",
  sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 0.8rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
p { margin: 0.7rem 0; max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--link); }
nav ul { columns: 18rem; padding-left: 1.2rem; margin: 1.2rem 0; }
nav li { break-inside: avoid; padding: 0.15rem 0; }
.warned { background: var(--warn); border-left: 0.3rem solid var(--warn-line);
  padding: 0.6rem 0.9rem; }
.note, figcaption { color: var(--soft); font-size: 0.88rem; }
.note { margin: 0.4rem 0; }
.scroll { overflow-x: auto; margin: 1rem 0 0.4rem; }
.scroll:focus-visible, pre:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: separate; border-spacing: 0;
  font-size: 0.92rem; line-height: 1.4;  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 0.5rem; }
th, td { padding: 0.32rem 0.7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); vertical-align: baseline; }
thead th, thead td { border-bottom: 2px solid var(--line); font-weight: 600;
  color: var(--soft); }
tr > :first-child { text-align: left; font-weight: 500; position: sticky; left: 0;
  background: var(--page); padding-left: 0; }
tbody tr:hover > * { background: var(--box); }
thead tr > :first-child { font-weight: 600; }
.words { text-align: left; }
.up { color: var(--up); } .down { color: var(--down); }
pre { background: var(--box); padding: 0.7rem 0.9rem; overflow-x: auto;
  border-radius: 0.3rem; font-size: 0.85rem; line-height: 1.45; }
figure { margin: 1.6rem 0; }
figure .scroll { margin: 0; }
img { display: block; max-width: 100%; height: auto; background: #ffffff; }
@media screen and (prefers-color-scheme: dark) {
  img { border-radius: 0.3rem; filter: brightness(0.9); } }
@media screen and (max-width: 40rem) {
  main { padding: 1rem 0.9rem 3rem; }
  h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; }
  th, td { padding: 0.3rem 0.55rem; } tr > :first-child { white-space: normal;
  min-width: 6.5rem; max-width: 9rem; overflow-wrap: anywhere; }
  caption { position: sticky; left: 0; max-width: calc(100vw - 1.8rem); }
  img { max-width: none; width: max(100%, var(--least)); } }
@media print {
  @page { margin: 1.5cm; }
  :root { font-size: 9.5pt; } main { max-width: none; padding: 0; }
  nav { display: none; } h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; } img { max-height: 22cm; width: auto; }
  .scroll, pre { overflow: visible; } pre { white-space: pre-wrap; }
  table { font-size: 8pt; } th, td { padding: 0.15rem 0.35rem; white-space: normal; } }
"""
)
