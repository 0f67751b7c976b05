"""How pages look: light and dark, wide and narrow, nothing loaded from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f6f5f1; --card: #ffffff; --ink: #1c2230; --muted: #5d6677; --line: #e1e0da;
  --accent: #2456c7; --wrong: #b93d0c; --bar: #d9e2f5; --flip: 0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #11141b; --card: #191d26; --ink: #e9e7e2; --muted: #a3abba; --line: #2c3340;
    --accent: #7ea8ff; --wrong: #ff9a62; --bar: #2a3a5c; --flip: 0.9;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.6 ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    Arial, sans-serif;
  overflow-wrap: break-word;
}
main, footer { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding: 4rem 0 1rem; }
h1, h2 {
  font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L", Georgia, serif;
  font-weight: 600; line-height: 1.15; text-wrap: balance;
}
h1 { font-size: clamp(2.1rem, 6vw, 3.4rem); margin: 0.2rem 0 1rem; letter-spacing: -0.015em; }
h2 { font-size: clamp(1.45rem, 3.4vw, 1.9rem); margin: 0 0 0.6rem; letter-spacing: -0.01em; }
sup { line-height: 0; font-size: 0.7em; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.6rem; }
p { margin: 0 0 1rem; max-width: 42rem; text-wrap: pretty; }
.kicker { color: var(--accent); font-weight: 600; margin: 0; font-size: 0.95rem; }
.lede { font-size: 1.18rem; }
.muted, figcaption, caption { color: var(--muted); }
section { padding: 2.4rem 0 0.6rem; border-top: 1px solid var(--line); margin-top: 2rem; }
.facts {
  display: grid; gap: 1rem; margin: 2rem 0 0; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fit, minmax(13.5rem, 1fr));
}
.facts li {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.1rem 1.2rem; font-size: 0.92rem; line-height: 1.45; color: var(--muted);
}
.facts b {
  display: block; color: var(--ink); font-size: 1.9rem; line-height: 1.2; margin-bottom: 0.35rem;
  font-weight: 650; letter-spacing: -0.02em; font-variant-numeric: tabular-nums;
}
.pair { display: grid; gap: 1.5rem; align-items: start; }
.pair > * { min-width: 0; }
@media (min-width: 54rem) { .pair { grid-template-columns: 1fr 1fr; } }
.chart {
  margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 0.8rem 0.8rem 1rem; max-width: 42rem;
}
.pair .chart { max-width: none; }
.chart img { display: block; width: 100%; height: auto; }
figcaption { font-size: 0.92rem; line-height: 1.5; padding: 0.4rem 0.4rem 0; }
.tiles {
  display: grid; gap: 0.8rem 0.7rem; margin: 0; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(5.2rem, 1fr));
}
@media (min-width: 64rem) { .tiles { grid-template-columns: repeat(8, minmax(0, 1fr)); } }
.tiles img {
  display: block; width: 100%; aspect-ratio: 1; border-radius: 8px; object-fit: contain;
  background: var(--card); border: 1px solid var(--line);
}
.drawing img { image-rendering: pixelated; filter: invert(var(--flip)); }
.tiles figure { margin: 0; }
.tiles .name {
  display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden;
  overflow-wrap: anywhere; white-space: normal;
}
.tiles figcaption { font-size: 0.82rem; line-height: 1.35; padding: 0.35rem 0 0; }
.tiles figcaption span { white-space: nowrap; }
.tiles b { color: var(--ink); font-variant-numeric: tabular-nums; }
.wrong { color: var(--wrong); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.94rem; line-height: 1.4; }
caption { text-align: left; font-size: 0.92rem; caption-side: bottom; padding-top: 0.6rem; }
th, td { padding: 0.5rem 0.7rem 0.5rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
th { font-weight: 600; } thead th { color: var(--muted); font-weight: 500; vertical-align: bottom; }
tbody th { font-weight: 500; } tbody th, thead th:first-child { text-align: left; }
td small { color: var(--muted); font-size: 0.88em; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.text { display: block; text-align: left; white-space: normal; min-width: 16rem; }
[tabindex]:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.4rem 1.4rem; }
dl, dd { margin: 0; } dd { overflow-wrap: anywhere; } dt { color: var(--muted); }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow-x: auto;
  padding: 1rem 1.2rem; font-size: 0.88rem; line-height: 1.55; margin: 0;
}
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
footer { padding-top: 2rem; padding-bottom: 3rem; font-size: 0.9rem; }
@media (max-width: 34rem) {
  .facts { grid-template-columns: 1fr 1fr; gap: 0.6rem; }
  .facts li { padding: 0.8rem 0.9rem; } .facts b { font-size: 1.5rem; }
  body { font-size: 16px; }
  header { padding-top: 2.2rem; }
  main, footer { padding: 0 1rem; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: 0.6rem; }
  .tiles { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 0.8rem 0.6rem; }
  .tiles figcaption { font-size: 0.75rem; }
  table { font-size: 0.74rem; } th, td { padding-right: 0.3rem; }
  pre { font-size: 0.78rem; padding: 0.9rem; } td small { display: block; }
}
"""
