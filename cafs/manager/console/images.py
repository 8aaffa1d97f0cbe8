"""Images: what their starts read, as it was learned, and what they share with each other."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.dialogs import ask_first
from cafs.manager.console.frame import Page, Seen, go, heading
from cafs.manager.console.tables import columns_of, moment, show_table
from cafs.manager.http.paths import CONSOLE

_AT_ONCE, _MOST = 1000, 2000
_MOST_OTHERS = 200
_COLUMNS = {
    "name": "Image",
    "image": "Manifest",
    "starts": "Starts",
    "chunks": "Chunks read",
    "size": "MiB read",
    "layers": "Layers",
    "shared_layers": "Shared layers",
    "shared": "% of chunks read in those",
    "learned_at": "Learned",
}
_LAYERS = {"number": "Layer", "diff_id": "diffID", "chunks": "Chunks read"}
_OTHERS = {
    "name": "Image",
    "image": "Manifest",
    "layers": "Layers in common",
    "chunks": "Chunks that both read",
    "share": "% of what this one reads",
    "size": "MiB of it, about",
}
_COUNTED = (
    "Counted are whole layers that both images have, and chunks that starts of both read, whichever layers "
    "these are in. What no start reads is not known here: cafs diff compares images as a whole."
)


async def _build_list(seen: Seen) -> None:
    rows: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None and len(rows) < _MOST:
        page = await seen.rest.get("/profiles", after=after, limit=_AT_ONCE)
        rows += map(image_row, page["items"])
        after = page["next"]
    heading("Images")
    ui.label(
        "What the first containers of an image read when they start, for the nodes that come next. "
        "A shared layer is one that another image of this list has too."
    ).classes("cafs-quiet")
    show_table(columns_of(_COLUMNS, sortable=tuple(_COLUMNS)), rows, rows_per_page=50)


def image_row(profile: dict[str, Any]) -> dict[str, Any]:
    """A line of the table. Pure."""
    chunks = profile["chunks"]
    return {
        **_named(profile),
        "starts": profile["starts"],
        "chunks": chunks,
        "size": _mib(profile["frame_bytes"]),
        "layers": profile["layer_count"],
        "shared_layers": profile["shared_layers"],
        "shared": round(100 * profile["shared_layer_chunks"] / chunks) if chunks else 0,
        "learned_at": moment(profile["learned_at"]),
    }


def _named(image: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": image["image"],
        "href": f"{CONSOLE}/images/{image['image']}",
        "name": image["name"] or "(no name)",
        "image": image["image"][:19],
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
    _show_shared(seen, path)

    async def reset() -> None:
        await seen.rest.ask("DELETE", path)
        go(f"{CONSOLE}/images")

    if seen.may("operator"):
        button = ui.button("Forget it", icon="restart_alt").props("outline no-caps color=negative")
        ask_first(
            button, "Forget what was learned? It is learned anew of the starts to come.", seen.does(reset)
        )


def _show_shared(seen: Seen, path: str) -> None:
    """When the page is there: thousands of images are not compared in a moment."""
    heading("Shared with other images", 2)
    said = ui.label("Comparing …").props("data-shared role=status")
    ui.label(_COUNTED).classes("cafs-quiet")
    table = show_table(columns_of(_OTHERS, sortable=tuple(_OTHERS)), [], rows_per_page=25)

    async def fill() -> None:
        sharing = await seen.rest.get(f"{path}/shared", limit=_MOST_OTHERS)
        said.text = say_shared(sharing)
        table.rows = [other_row(other) for other in sharing["items"]]

    ui.timer(0.1, seen.does(fill), once=True)


def say_shared(sharing: dict[str, Any]) -> str:
    """What an image shares with all others, in a sentence. Pure."""
    if not sharing["compared"]:
        return "Nothing is known of any other image yet."
    shown = len(sharing["items"])
    more = f" The {shown:,} with the most in common:" if shown < sharing["sharing"] else ""
    return (
        f"{sharing['shared']:,} of the {sharing['read']:,} chunks that its starts read "
        f"({sharing['share']:.0%}, about {_mib(sharing['frame_bytes'])} MiB) are read by starts of other "
        f"images too. {sharing['sharing']:,} of {sharing['compared']:,} images have something in common "
        f"with it.{more}"
    )


def other_row(other: dict[str, Any]) -> dict[str, Any]:
    """A line of the table of images that share something. Pure."""
    return {
        **_named(other),
        "layers": other["layers"],
        "chunks": other["chunks"],
        "share": round(100 * other["share"], 1),
        "size": _mib(other["frame_bytes"]),
    }


def _mib(size_bytes: int) -> float:
    return round(size_bytes / (1 << 20), 1)


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
