"""What each request to the control socket does. The one place that knows the paths."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict

import trio

from cafs.control_socket.protocol import (
    ANNOUNCED_PATH,
    CREDENTIALS_PATH,
    LAYERS_PATH,
    METRICS_PATH,
    STATUS_PATH,
    Reason,
    encode_json,
    is_layer_name,
    parse_add_layer,
    parse_announcement,
)
from cafs.core.exposition import CONTENT_TYPE
from cafs.core.log_fields import about
from cafs.errors import CafsError, NotFoundError, UsageError
from cafs.fetch.service import ChunkService
from cafs.node.mountd.announced import Announced
from cafs.node.mountd.figures import Figures, Tally, layer_figures, resident_bytes, status_json
from cafs.node.mountd.http_server import Answer, Handler, Request, refuse
from cafs.node.mountd.layers import Layers
from cafs.node.mountd.metrics import render_metrics
from cafs.node.mountd.refusals import reason_of
from cafs.node.mountd.state import RunDirectory
from cafs.node.mountd.vault import Vault
from cafs.oci.registry.pull_secrets import PullSecrets, parse_pull_secret

log = logging.getLogger(__name__)


class Control:
    """A ``Handler`` for ``serve_http``."""

    def __init__(
        self,
        directory: RunDirectory,
        layers: Layers,
        service: ChunkService,
        *,
        announced: Announced,
        secrets: PullSecrets,
        vault: Vault,
        can_resend: bool,
    ) -> None:
        self._directory = directory
        self._layers = layers
        self._service = service
        self._announced = announced
        self._secrets = secrets
        self._vault = vault
        self._can_resend = can_resend
        self._tally = Tally()
        self._started_at = time.time()
        self._routes: dict[str, dict[str, Handler]] = {
            LAYERS_PATH: {"POST": self._add, "GET": self._list},
            ANNOUNCED_PATH: {"POST": self._announce},
            STATUS_PATH: {"GET": self._status},
            METRICS_PATH: {"GET": self._metrics},
            CREDENTIALS_PATH: {"PUT": self._take_credentials},
        }

    async def handle(self, request: Request) -> Answer:
        """Answer one request; see ``docs/mountd.md``."""
        try:
            return await self._route(request)
        except CafsError as e:
            reason = reason_of(e)
            log.info("%s %.100s: %s: %s", request.method, request.path, reason, e)
            return refuse(reason, str(e))

    async def _route(self, request: Request) -> Answer:
        if request.method == "DELETE" and request.path.startswith(LAYERS_PATH + "/"):
            return await self._remove(request.path.removeprefix(LAYERS_PATH + "/"))
        methods = self._routes.get(request.path)
        if methods is None:
            return refuse(Reason.UNKNOWN, f"there is no {request.path[:100]}")
        act = methods.get(request.method)
        if act is None:
            return refuse(Reason.BAD_REQUEST, f"{request.path} knows no {request.method}", 405)
        return await act(request)

    def figures(self) -> Figures:
        """Everything, at this moment."""
        tree = self._layers.tree
        return Figures(
            service=self._service.stats(),
            layers=tuple(layer_figures(layer, self._service, tree) for layer in self._layers),
            added=self._tally.added,
            add_seconds=self._tally.add_seconds,
            refused={str(reason): count for reason, count in self._tally.refused.items()},
            resident_bytes=resident_bytes(),
            started_at=self._started_at,
        )

    async def _add(self, request: Request) -> Answer:
        wanted = parse_add_layer(request.body)
        began = trio.current_time()
        try:
            added = await self._layers.add(wanted)
        except CafsError as e:
            reason = reason_of(e)
            self._tally.refused[reason] += 1
            told = log.info if isinstance(e, NotFoundError) else log.warning
            told("layer not shown: %s %s", e, about(reason=reason, image=wanted.image, layer=wanted.layer))
            return refuse(reason, str(e))
        self._tally.added += 1
        self._tally.add_seconds.note(trio.current_time() - began)
        return Answer(200, encode_json(asdict(added)))

    async def _announce(self, request: Request) -> Answer:
        self._announced.announce(parse_announcement(request.body))
        return Answer(202, b"")

    async def _remove(self, name: str) -> Answer:
        if not is_layer_name(name):
            raise UsageError(f"{name[:100]!r} is no layer's name")
        await self._layers.remove(name)
        return Answer(204, b"")

    async def _status(self, _request: Request) -> Answer:
        document = status_json(self.figures(), self._directory.fuse, can_resend=self._can_resend)
        return Answer(200, encode_json(document))

    async def _metrics(self, _request: Request) -> Answer:
        return Answer(200, render_metrics(self.figures(), self._service.counters), CONTENT_TYPE)

    async def _list(self, _request: Request) -> Answer:
        documents = []
        for layer in self._layers:
            here_bytes = await self._service.bytes_here(layer.reader)
            figures = layer_figures(layer, self._service, self._layers.tree)
            documents.append(figures.to_json(here_bytes))
        return Answer(200, encode_json({"layers": documents}))

    async def _take_credentials(self, request: Request) -> Answer:
        self._secrets.remember(parse_pull_secret(request.body))
        self._vault.keep(self._secrets.dump())
        self._layers.forget_failures()
        return Answer(204, b"")
