"""A cluster's configuration: limits as fields, the whole as a document, and a look at what would change."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from nicegui import ui

from cafs.core.live.document import SCHEDULER
from cafs.core.swarm.peer_limits import LARGEST, PeerLimits
from cafs.manager.console.cluster import cluster_of
from cafs.manager.console.dialogs import show_difference
from cafs.manager.console.frame import Page, Seen, link
from cafs.manager.console.rest import RefusedError
from cafs.manager.http.paths import CONSOLE

_CONFLICT, _INVALID = "conflict", "invalid"
_COLOURS = """:theme="Quasar.Dark.isActive ? 'githubDark' : 'githubLight'" """
"""Of the document's text: the usual ones are light on white, and white in the dark."""


class _Draft:
    """What is being edited: a text, which the fields change too."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.text = json.dumps(document, indent=2, ensure_ascii=False)

    def document(self) -> dict[str, Any] | None:
        """None: it is no object of JSON."""
        try:
            document = json.loads(self.text or "{}")
        except ValueError:
            return None
        return document if isinstance(document, dict) else None

    def value(self, section: str, name: str) -> float | None:
        """Of a limit; None: not said, or not a number."""
        found = (self.document() or {}).get(section)
        value = found.get(name) if isinstance(found, dict) else None
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def change(self, section: str, name: str, value: float | None, *, whole: bool) -> None:
        """A limit, if the text can be read; None: it is not said any more."""
        document = self.document()
        if document is None or not isinstance(document.get(section, {}), dict):
            return
        table = document.setdefault(section, {})
        if value is None:
            table.pop(name, None)
        else:
            table[name] = int(value) if whole and value == int(value) else value
        if not table:
            del document[section]
        self.text = json.dumps(document, indent=2, ensure_ascii=False)


async def _build(seen: Seen) -> None:
    cluster, _ = await cluster_of(seen, "Configuration")
    editor = _Editor(seen, cluster)
    await editor.load()
    editor.show()


class _Editor:
    """The page of one cluster."""

    def __init__(self, seen: Seen, cluster: dict[str, Any]) -> None:
        self._seen = seen
        self._kind = cluster["kind"]
        self._hosts = f"{CONSOLE}/hosts?cluster_id={cluster['id']}"
        self._path = f"/clusters/{cluster['id']}/configuration"
        self._may = seen.may("operator", cluster["id"])

    async def load(self) -> None:
        answer = await self._seen.rest.ask("GET", self._path)
        self._etag, self._holds = answer.etag, answer.document
        self._draft = _Draft(answer.document["document"])

    def show(self) -> None:
        self._version = ui.label("").props("data-version")
        with ui.tabs().props("align=left no-caps") as tabs:
            limits, document = ui.tab("Limits"), ui.tab("Document")
        with ui.tab_panels(tabs, value=limits).props("animated=false").classes("full-width"):
            with ui.tab_panel(limits).classes("q-pa-none"):
                ui.label("What is left empty stays as each service has it itself.").classes("cafs-quiet")
                self._limits = self._show_limits()
            with ui.tab_panel(document).classes("q-pa-none"):
                self._text = ui.codemirror(self._draft.text, language="JSON", on_change=self._typed)
                self._text.classes("full-width").style("height: 420px").props('aria-label="The document"')
                self._text.props(_COLOURS)
        if self._kind == "scheduler":
            ui.label("Rules of proxies, block lists and applications are in the document.").classes(
                "cafs-quiet"
            )
        tabs.on_value_change(self._fill)
        self._told = ui.column().classes("full-width")
        check = ui.button("Look at the changes", icon="difference", on_click=self._seen.does(self._check))
        check.props("no-caps")
        if not self._may:
            ui.label("You may look, and try what would change, but not save.").classes("cafs-quiet")
        self._fill()

    def _show_limits(self) -> dict[tuple[str, str], ui.number]:
        found = {}
        ui.label("Peers and seeds").classes("text-subtitle1 q-mt-md")
        with ui.element("div").classes("cafs-grid"):
            for limit in fields(PeerLimits):
                least = limit.metadata.get("least", 0)
                found["peer", limit.name] = self._number("peer", limit.name, least, LARGEST, whole=True)
        if self._kind == "scheduler":
            ui.label("Schedulers").classes("text-subtitle1 q-mt-md")
            with ui.element("div").classes("cafs-grid"):
                for field in SCHEDULER:
                    found["scheduler", field.name] = self._number(
                        "scheduler", field.name, field.least, field.most, whole=field.whole
                    )
        return found

    def _number(self, section: str, name: str, least: float, most: float, *, whole: bool) -> ui.number:
        bounds = f"{least:,.12g} and more" if most >= LARGEST else f"{least:,.12g} to {most:,.12g}"
        number = ui.number(name).props(f'outlined dense clearable hint="{bounds}"')

        def changed() -> None:
            if number.value != self._draft.value(section, name):
                self._draft.change(section, name, number.value, whole=whole)

        return number.on_value_change(changed)

    def _typed(self) -> None:
        self._draft.text = self._text.value

    def _fill(self) -> None:
        """The fields from the text, and the text where the fields changed it."""
        holds = self._holds
        said = f", by {holds['who']}" if holds["version"] else ": nothing is said"
        self._version.text = f"Version {holds['version']} holds{said}."
        for (section, name), number in self._limits.items():
            if number.value != (value := self._draft.value(section, name)):
                number.value = value
        if self._text.value != self._draft.text:
            self._text.value = self._draft.text

    async def _check(self) -> None:
        self._told.clear()
        document = self._draft.document()
        if document is None:
            self._complain({"document": "is no JSON object"})
            return
        try:
            changes = (
                await self._seen.rest.ask("POST", f"{self._path}/check", {"document": document})
            ).document
        except RefusedError as e:
            if e.kind != _INVALID or not e.wrong:
                raise
            self._complain(e.wrong)
            return
        with self._told:
            if not changes:
                ui.label("This is what holds already.")
                return
            ui.label("What this changes").classes("text-subtitle1")
            show_difference(changes, "before", "after")
            if self._may:
                self._offer(document)

    def _offer(self, document: dict[str, Any]) -> None:
        note = ui.input("Why (a note, for people)").classes("full-width").props("maxlength=1000")

        async def save() -> None:
            await self._save(document, note.value)

        ui.button("Save", icon="save", on_click=self._seen.does(save)).props("no-caps data-save")

    async def _save(self, document: dict[str, Any], note: str) -> None:
        body = {"document": document, "note": note}
        try:
            answer = await self._seen.rest.ask("PUT", self._path, body, etag=self._etag)
        except RefusedError as e:
            if e.kind != _CONFLICT:
                raise
            await self._show_conflict(e)
            return
        self._etag, self._holds = answer.etag, answer.document
        self._told.clear()
        self._fill()
        with self._told:
            ui.label(f"Version {answer.document['version']} is saved.").classes("cafs-added")
            link("See which hosts run it", self._hosts)

    async def _show_conflict(self, conflict: RefusedError) -> None:
        """It stays as it is typed; what it rests on from now on is what the other one made."""
        answer = await self._seen.rest.ask("GET", self._path)
        self._etag, self._holds = answer.etag, answer.document
        self._told.clear()
        self._fill()
        with self._told:
            holds = f"{answer.document['who']} made version {answer.document['version']} meanwhile."
            ui.label(f"{holds} What you have here says otherwise:").classes("cafs-gone").props("role=alert")
            show_difference(conflict.differs, "is", "sent")
            ui.label("Look at the changes again to go on with yours, or take what is there.")

            async def take() -> None:
                await self.load()
                self._told.clear()
                self._fill()

            ui.button("Take what is there", on_click=self._seen.does(take)).props("outline no-caps")

    def _complain(self, wrong: dict[str, str]) -> None:
        with self._told, ui.element("ul").props("role=alert"):
            for path, why in wrong.items():
                with ui.element("li").classes("cafs-gone"):
                    ui.label(f"{path.removeprefix('document.')}: {why}")


PAGES = (Page("/clusters/{cluster_id:int}/configuration", "Configuration", _build),)
