"""The frame of the report: page, style, and the script that draws the plots in the page's colours."""

from __future__ import annotations

from string import Template

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Fairlane demo</title>
<style>$style</style>
</head>
<body>
<main>
<header><h1>Fairlane demo</h1><p>$summary</p></header>
$verdict
<div class="cards">$cards</div>
$wait
<div class="grid">$panels</div>
$tables
<footer>
<dl>$provenance</dl>
</footer>
</main>
<script>$plotly</script>
<script>const FIGURES = $figures;
$script</script>
</body>
</html>
""")

STYLE = """
:root { --text: #1c2430; --muted: #5f6b7a; --page: #f4f5f7; --panel: #ffffff; --line: #dfe3e8;
  --good: #0a7d55; --good-soft: #e6f5ee; --bad: #b42318; --bad-soft: #fdecea; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --muted: #98a3b3; --page: #12161c; --panel: #1b212a;
  --line: #2e3743; --good: #4cc38a; --good-soft: #16291f; --bad: #ff8b80; --bad-soft: #3a1a17; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 32px 20px 48px; display: grid; gap: 18px; }
main > * { min-width: 0; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 0 0 2px; }
header p, .panel p { color: var(--muted); margin: 0; max-width: 85ch; }
.verdict, .panel, .card { background: var(--panel); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 20px; }
.verdict.good { border-left: 6px solid var(--good); } .verdict.bad { border-left: 6px solid var(--bad); }
.verdict h2 { font-size: 22px; margin-bottom: 10px; }
.verdict.good h2, li.good b { color: var(--good); } .verdict.bad h2, li.bad b { color: var(--bad); }
.verdict ul { list-style: none; margin: 0; padding: 0; display: grid; grid-template-columns: 1fr 1fr; gap: 0 36px; }
.verdict li { display: grid; grid-template-columns: 20px 1fr auto; gap: 6px; padding: 6px 0; font-size: 14px;
  border-top: 1px solid var(--line); align-items: baseline; }
.verdict li.bad { background: var(--bad-soft); }
.verdict em { font-style: normal; color: var(--muted); text-align: right; font-variant-numeric: tabular-nums;
  max-width: 210px; }
.verdict small { display: block; color: var(--muted); overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px; }
.card { padding: 12px 14px; display: grid; } .card span, .card small { color: var(--muted); font-size: 13px; }
.card strong { font-size: 22px; line-height: 1.35; font-variant-numeric: tabular-nums; white-space: nowrap; }
.grid { display: grid; grid-template-columns: 1fr 1fr; gap: 18px; } .grid > * { min-width: 0; }
.plot { height: 300px; } .wide .plot { height: 400px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; margin-top: 8px; font-size: 14px; }
th { text-align: left; color: var(--muted); font-weight: 600; }
th, td { padding: 7px 12px 7px 0; border-bottom: 1px solid var(--line); }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
details { margin-top: 10px; color: var(--muted); } summary { cursor: pointer; font-size: 13px; }
pre { overflow-x: auto; font-size: 12.5px; } footer { color: var(--muted); font-size: 13px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 900px) { .grid, .verdict ul { grid-template-columns: 1fr; }
  .cards { grid-template-columns: repeat(2, 1fr); } }
@media print { body { background: #fff; } .panel, .card, .verdict { break-inside: avoid; } }
"""

SCRIPT = """
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim(), muted = style.getPropertyValue("--muted").trim();
  const line = style.getPropertyValue("--line").trim(), panel = style.getPropertyValue("--panel").trim();
  const axis = { gridcolor: line, linecolor: line, tickfont: { color: muted } };
  const copy = structuredClone(layout);
  copy.font = { color: text, size: 13, family: getComputedStyle(document.body).fontFamily };
  copy.hoverlabel = { bgcolor: panel, bordercolor: line, font: { color: text } };
  for (const name of ["xaxis", "yaxis"]) {
    copy[name] = { ...copy[name], ...axis };
    copy[name].title = { ...copy[name].title, font: { color: muted, size: 12 } };
  }
  return copy;
}
function draw() {
  for (const [name, figure] of Object.entries(FIGURES)) {
    Plotly.react("plot-" + name, figure.data, themed(figure.layout), { displaylogo: false, responsive: true,
      displayModeBar: false });
  }
}
draw();
dark.addEventListener("change", draw);
"""
