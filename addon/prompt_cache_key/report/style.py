"""The look of the page, in light and dark, from phones on."""

STYLE = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --text: #1b2330; --soft: #5a6675;
  --line: #dde1e7; --cached: #2f7dc1; --lost: #e0662f; --new: #b9c3cf; --unknown: #dde2e8;
  --broke: #c8283a; --key: #7a3fc0; --pause: #8a6500; --busy: #0b7a75; --own: #4b5563;
  --gone: #fbe3e4; --come: #def3e3 }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --text: #e5e9ef;
  --soft: #9aa6b5; --line: #303947; --cached: #4a94d6; --lost: #f0834f; --new: #596676;
  --unknown: #434e5c; --broke: #ff6d74; --key: #b990f5; --pause: #e0b040; --busy: #3fc1b8;
  --own: #aab4c2; --gone: #4a2529; --come: #1f3d2a } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1120px; padding: 20px 16px; background: var(--page);
  color: var(--text); font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { margin: 0; font-size: 22px } h2 { margin: 0; font-size: 16px } p { margin: 4px 0 }
small { display: block } .soft, small, th, summary { color: var(--soft) }
.warn { border-left: 4px solid var(--broke); margin: 10px 0; padding-left: 10px }
section, .tiles li { background: var(--card); border: 1px solid var(--line); border-radius: 8px }
section { margin-top: 14px; padding: 14px 16px }
ul, ol { list-style: none; margin: 6px 0 0; padding: 0 }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 12px }
.tiles li { flex: 1 1 140px; padding: 10px 12px }
.tiles b { display: block; font-size: 19px }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 2px 0; font-size: 13px }
.legend svg, .causes svg, .misses svg { width: 12px; height: 12px; vertical-align: -1px }
.cached { fill: var(--cached) } .lost { fill: var(--lost) } .new { fill: var(--new) }
.unknown { fill: var(--unknown) } .broke { fill: var(--broke) } .key { fill: var(--key) }
.pause { fill: var(--pause) } .busy { fill: var(--busy) } .own { fill: var(--own) }
.split { display: block; width: 100%; height: 14px; margin: 8px 0; border-radius: 4px }
.causes li { display: flex; gap: 10px; padding: 5px 0; border-top: 1px solid var(--line) }
.causes svg { flex: none; margin-top: 5px } .what { flex: 1 }
.count { text-align: right; white-space: nowrap }
.chart { display: grid; grid-template-columns: 44px minmax(0, 1fr); margin: 10px 0 0 }
.chart, .scale { font-size: 11px; color: var(--soft) }
.scale { display: flex; flex-direction: column; justify-content: space-between; height: 154px;
  padding-right: 6px; text-align: right }
.plot { min-width: 0 }
.bars { display: block; width: 100%; height: 140px; margin: 7px 0; overflow: visible;
  background: linear-gradient(var(--line), var(--line)) 0 0 / 100% 1px no-repeat,
  linear-gradient(var(--line), var(--line)) 0 50% / 100% 1px no-repeat;
  border-bottom: 1px solid var(--line) }
.hit { fill: transparent } g:hover > .hit { fill: var(--line) }
.marks { grid-column: 2; position: relative; height: 14px }
.marks svg { position: absolute; top: 0; width: 12px; height: 12px; margin-left: -6px }
.times { grid-column: 2; display: flex; justify-content: space-between; gap: 8px;
  white-space: nowrap }
details { margin-top: 10px } summary { cursor: pointer }
.misses li { padding: 6px 0; border-top: 1px solid var(--line) }
del, ins { display: block; font: 13px ui-monospace, monospace; text-decoration: none;
  white-space: pre-wrap; padding: 0 8px }
del { background: var(--gone) } del::before { content: "- " }
ins { background: var(--come) } ins::before { content: "+ " }
table { border-collapse: collapse; width: 100%; margin-top: 6px; font-size: 14px }
th, td { padding: 3px 0 3px 18px; text-align: right; vertical-align: top; font-weight: normal }
td { border-top: 1px solid var(--line) }
th, td { white-space: nowrap } .name { text-align: left; white-space: normal }
th:first-child, td:first-child { padding-left: 0 }
@media (max-width: 640px) {
  .more { display: none }
  table, tbody, tr, td { display: block } tr:first-child { display: none }
  tr { padding: 6px 0; border-top: 1px solid var(--line) }
  td, td:first-child { display: flex; justify-content: space-between; gap: 16px; padding: 1px 0;
    border: 0; text-align: right; white-space: normal }
  td::before { content: attr(data-name); color: var(--soft); text-align: left;
    overflow-wrap: normal }
}
"""
