//! The page's style sheet; the page's policy allows this one by its digest.

pub(super) const STYLE: &str = "
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --dim: #667; --line: #d5d9de; --empty: #f3f4f6 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #e6e8eb; --dim: #9aa3ad; --line: #343a41; --empty: #20242a }
}
body { font: 14px/1.45 system-ui, sans-serif; background: var(--paper); color: var(--ink); margin: 24px; }
h1 { font-size: 22px; margin: 0 } h2 { font-size: 18px; margin: 28px 0 8px } h3 { font-size: 14px }
.dim, small { color: var(--dim); margin: 2px 0 }
.bar { width: 100%; height: 22px; display: block; border-radius: 4px }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 18px }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px }
summary { cursor: pointer; margin-top: 10px }
table { border-collapse: collapse; margin-top: 8px }
th, td { text-align: left; padding: 3px 18px 3px 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere }
.number { text-align: right }
.in_sync { fill: #2e9e5b; background: #2e9e5b } .behind { fill: #e0a100; background: #e0a100 }
.differs { fill: #d1453b; background: #d1453b } .stale { fill: #d97a2b; background: #d97a2b }
.silent { fill: #7a5fb5; background: #7a5fb5 } .unknown { fill: #9aa3ad; background: #9aa3ad }
.definitions { fill: #3b7dd8; background: #3b7dd8 } .states { fill: #e0a100; background: #e0a100 }
.days { max-width: 100%; height: auto } .days text { font-size: 10px; fill: var(--dim) }
.matrix { display: flex; gap: 4px; overflow-x: auto; align-items: flex-start; padding-bottom: 8px }
.tactic { flex: 0 0 132px }
h4 { font-size: 12px; margin: 0 0 4px; height: 52px } h4 small { display: block; font-weight: normal }
.cell { font-size: 10px; line-height: 1.3; padding: 3px 5px; margin-bottom: 2px; border-radius: 2px;
  overflow-wrap: anywhere }
.cell b { font-weight: 600 } .cell i { display: block; font-style: normal; font-weight: 600 }
.heat0 { background: var(--empty); color: var(--dim) } .heat1 { background: #fdd9a8; color: #332200 }
.heat2 { background: #fdb06b; color: #331800 } .heat3 { background: #ef7342; color: #200800 }
.heat4 { background: #c2321f; color: #fff }
.off { background: var(--empty); color: var(--ink); outline: 1px dashed #d1453b; outline-offset: -1px }
";
