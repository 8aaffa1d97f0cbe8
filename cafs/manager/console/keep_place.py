"""Keeps the place of who goes through a table by keyboard.

The library draws the cells of a table anew whenever anything on its page has changed: what had the focus is
gone then, and the next press of Tab would begin at the top of the page.
"""

from __future__ import annotations

from nicegui import ui

_SCRIPT = """
<script>
(() => {
  let held = null, table = null;
  addEventListener("focusin", (event) => {
    held = event.target;
    table = held.closest(".q-table__container");
  });
  new MutationObserver(() => {
    if (!table || held.isConnected || document.activeElement !== document.body) return;
    const is_same = (one) => one.textContent === held.textContent && one.href === held.href;
    const found = [...table.querySelectorAll(held.tagName)].find(is_same);
    table = found ? table : null;
    found?.focus({preventScroll: true});
  }).observe(document.body, {childList: true, subtree: true});
})();
</script>
"""


def keep_place() -> None:
    """On the page that is being built."""
    ui.add_body_html(_SCRIPT)
