"""Images: what their starts read, as it was learned."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.dialogs import ask_first
from cafs.manager.console.frame import Page, Seen, go, heading
from cafs.manager.console.tables import columns_of, moment, show_table
from cafs.manager.http.paths import CONSOLE

_AT_ONCE, _MOST = 1000, 2000
_COLUMNS = {
    "name": "Image",
    "image": "Manifest",
    "starts": "Starts",
    "chunks": "Chunks read",
    "size": "MiB read",
    "learned_at": "Learned",
}
_LAYERS = {"number": "Layer", "diff_id": "diffID", "chunks": "Chunks read"}


async def _build_list(seen: Seen) -> None:
    rows: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None and len(rows) < _MOST:
        page = await seen.rest.get("/profiles", after=after, limit=_AT_ONCE)
        rows += map(image_row, page["items"])
        after = page["next"]
    heading("Images")
    ui.label(
        "What the first containers of an image read when they start, for the nodes that come next."
    ).classes("cafs-quiet")
    show_table(columns_of(_COLUMNS, sortable=tuple(_COLUMNS)), rows, rows_per_page=50)


def image_row(profile: dict[str, Any]) -> dict[str, Any]:
    """A line of the table. Pure."""
    return {
        "id": profile["image"],
        "href": f"{CONSOLE}/images/{profile['image']}",
        "name": profile["name"] or "(no name)",
        "image": profile["image"][:19],
        "starts": profile["starts"],
        "chunks": profile["chunks"],
        "size": round(profile["frame_bytes"] / (1 << 20), 1),
        "learned_at": moment(profile["learned_at"]),
    }


async def _build_one(seen: Seen) -> None:
    path = f"/profiles/{seen.part('image')}"
    profile = await seen.rest.get(path)
    row = image_row(profile)
    heading(row["name"]).classes("cafs-value")
    ui.label(profile["image"]).classes("cafs-quiet cafs-value")
    ui.label(
        f"Learned of {row['starts']} starts, the newest {row['learned_at']}: "
        f"{row['chunks']:,} chunks, {row['size']} MiB compressed."
    )
    heading("When which layer is read", 2)
    chart = ui.echart(reads_chart(profile)).classes("full-width").style("height: 320px")
    chart.props('role=img aria-label="When which layer is read"')
    layers = [
        {"id": number, "number": number, "diff_id": layer["diff_id"], "chunks": layer["chunks"]}
        for number, layer in enumerate(profile["layers"])
    ]
    show_table(columns_of(_LAYERS, sortable=("number", "chunks")), layers).classes("cafs-value")

    async def reset() -> None:
        await seen.rest.ask("DELETE", path)
        go(f"{CONSOLE}/images")

    if seen.may("operator"):
        button = ui.button("Forget it", icon="restart_alt").props("outline no-caps color=negative")
        ask_first(
            button, "Forget what was learned? It is learned anew of the starts to come.", seen.does(reset)
        )


def reads_chart(profile: dict[str, Any]) -> dict[str, Any]:
    """A point for each chunk: its layer, and the how manieth read it is. Pure."""
    points = [[place, layer] for place, (layer, _) in enumerate(profile["order"])]
    grey = {"color": "#888"}
    return {
        "animation": False,
        "grid": {"left": 8, "right": 24, "top": 16, "bottom": 8, "containLabel": True},
        "xAxis": {"type": "value", "name": "reads", "minInterval": 1, "axisLabel": grey},
        "yAxis": {
            "type": "category",
            "data": [f"layer {number}" for number in range(len(profile["layers"]))],
            "axisLabel": grey,
        },
        "series": [{"type": "scatter", "symbolSize": 5, "large": True, "data": points, "color": "#1565c0"}],
    }


PAGES = (Page("/images", "Images", _build_list), Page("/images/{image}", "Image", _build_one))
