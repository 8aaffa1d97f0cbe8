"""What ``cafs doctor --registry`` finds out about a registry, by asking it with the user's credentials.

Every failure is a finding: nothing here raises for what a registry does.
"""

from __future__ import annotations

import trio

from cafs.core.settings import Settings
from cafs.errors import AuthError, CafsError, NotFoundError, UntrustedError
from cafs.fetch.open_image import find_converted
from cafs.node.finding import Finding, Level
from cafs.oci.descriptor import Descriptor
from cafs.oci.open_source import open_repository
from cafs.oci.reference import RegistryReference, canonical_host
from cafs.oci.registry.address import is_loopback
from cafs.oci.registry.client import RegistryClient, Request
from cafs.oci.registry.repository import RegistryRepository

_PATIENCE_S = 60.0
_ANSWERS = frozenset((200, 404))
"""To ``/v2/`` and to a referrers query: 404 is an answer too."""


async def probe_registry(host: str, settings: Settings) -> list[Finding]:
    """Reach a registry and log in."""
    host = canonical_host(host)
    client = RegistryClient(host, settings)
    try:
        with trio.fail_after(_PATIENCE_S):
            await client.call(Request("GET", "/v2/", f"registry {host}", (), _ANSWERS))
    except AuthError as e:
        mend = f"docker login {host}; under Kubernetes: cafs snapshotter --cri-proxy"
        reached = Finding(Level.OK, "registry", f"{host} answers, {_scheme(client)}")
        return [reached, Finding(Level.FAIL, "login", str(e), "private images are not found", mend)]
    except (CafsError, trio.TooSlowError) as e:
        return [_unreachable(host, str(e) or f"no answer within {_PATIENCE_S:.0f} s")]
    finally:
        await client.aclose()
    return [
        Finding(Level.OK, "registry", f"{host} answers, {_scheme(client)}"),
        Finding(Level.OK, "login", "accepted, or none asked for"),
    ]


def _scheme(client: RegistryClient) -> str:
    return "in TLS" if client.base.startswith("https:") else "in plain HTTP"


def _unreachable(host: str, problem: str) -> Finding:
    why = "nothing can be pulled or converted there, and no layer of it is lazy"
    mend = "check name, port, proxy and certificate (its CA belongs to the system's: update-ca-certificates)"
    plain = any(word in problem.lower() for word in ("wrong version number", "record layer", "not ssl"))
    if plain and not is_loopback(host):
        mend = f'it speaks plain HTTP: insecure_registries = ["{host}"] in /etc/cafs/config.toml'
    return Finding(Level.FAIL, "registry", f"{host}: {problem}", why, mend)


async def probe_image(reference: RegistryReference, settings: Settings) -> list[Finding]:
    """Look an image up as a pull would: may it be read, how are referrers found, is it converted."""
    findings = await probe_registry(reference.host, settings)
    if any(finding.level is Level.FAIL and finding.subject == "registry" for finding in findings):
        return findings
    repository = open_repository(reference, settings)
    assert isinstance(repository, RegistryRepository)
    try:
        with trio.fail_after(_PATIENCE_S):
            return [*findings, *await _look_up(repository, reference, settings)]
    except trio.TooSlowError:
        return [*findings, _unreachable(reference.host, f"no answer within {_PATIENCE_S:.0f} s")]
    finally:
        await repository.aclose()


async def _look_up(
    repository: RegistryRepository, reference: RegistryReference, settings: Settings
) -> list[Finding]:
    try:
        descriptor = await repository.resolve(reference.selector)
        findings = [Finding(Level.OK, "image", f"{reference} is {descriptor.digest}")]
        findings.append(await _referrers(repository, descriptor))
    except AuthError as e:
        return [Finding(Level.FAIL, "image", str(e), "it may not be read", f"docker login {reference.host}")]
    except CafsError as e:
        return [Finding(Level.FAIL, "image", str(e), "it cannot be pulled", "check its name and tag")]
    try:
        known = await find_converted(repository, reference, settings)
    except NotFoundError as e:
        mend = f"cafs convert {reference}"
        return [*findings, Finding(Level.WARN, "converted", str(e), "it is downloaded whole", mend)]
    except UntrustedError as e:
        mend = "trusted_keys or trusted_registries in /etc/cafs/config.toml; or cafs convert --sign-key"
        return [*findings, Finding(Level.WARN, "converted", str(e), "it is downloaded whole", mend)]
    except CafsError as e:
        why = "its artifact is not used: the image is downloaded whole"
        return [*findings, Finding(Level.FAIL, "converted", str(e), why, f"cafs convert {reference}")]
    what = f"layers that can be lazy: {len(known.artifact.layers)}"
    return [*findings, Finding(Level.OK, "converted", what)]


async def _referrers(repository: RegistryRepository, descriptor: Descriptor) -> Finding:
    what = f"{repository.name}: referrers"
    path = repository.path(f"referrers/{descriptor.digest}")
    request = Request("GET", path, what, repository.pull_scopes, _ANSWERS | {400, 405, 501})
    exchange, _ = await repository.client.call(request, limit=4 << 20)
    if exchange.status == 200:
        return Finding(Level.OK, "referrers", "the registry has the Referrers API")
    return Finding(Level.OK, "referrers", "no Referrers API; the referrers tag is used, one request more")
