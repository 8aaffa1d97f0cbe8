"""A kubelet, as far as containerd's CRI plugin can tell: pulls images, runs a pod with a container.

The messages are compiled on import, into a pool of their own: CAFS may have messages with the same names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

from cafs.proto.services import methods_of

_NODE = 2
"""The network of the host: no CNI plugin is asked."""
_CALL_S = 60


def _compiled() -> Any:
    with tempfile.NamedTemporaryFile() as out:
        folder = Path(__file__).parent
        arguments = [
            "protoc",
            f"--proto_path={folder}",
            f"--descriptor_set_out={out.name}",
            str(folder / "cri.proto"),
        ]
        assert protoc.main(arguments) == 0
        files = FileDescriptorSet.FromString(Path(out.name).read_bytes())
    pool = DescriptorPool()
    pool.Add(files.file[0])
    return pool.FindFileByName("cri.proto")


_FILE = _compiled()


def message(kind: str, **fields: Any) -> Any:
    """A message of ``cri.proto``."""
    return GetMessageClass(_FILE.message_types_by_name[kind])(**fields)


class Kubelet:
    """Speaks to one containerd's CRI plugin (or to what stands before it)."""

    def __init__(self, address: Path, folder: Path) -> None:
        """``folder`` is for logs of pods."""
        self._folder = folder
        self._channel = grpc.insecure_channel(f"unix:{address}")
        services = ("RuntimeService", "ImageService")
        self._methods = {m.name: m for service in services for m in methods_of(_FILE, service)}

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def call(self, method: str, **fields: Any) -> Any:
        """One call; the request's fields by name."""
        found = self._methods[method]
        call = self._channel.unary_unary(found.path, found.serialize_request, found.parse_response)
        return call(found.request(**fields), timeout=_CALL_S)

    def pull(self, image: str, **auth: str) -> str:
        """PullImage; answers the image's id."""
        request: dict[str, Any] = {"image": message("ImageSpec", image=image)}
        if auth:
            request["auth"] = message("AuthConfig", **auth)
        return str(self.call("PullImage", **request).image_ref)

    def images(self) -> list[Any]:
        """ListImages."""
        return list(self.call("ListImages").images)

    def remove_image(self, image: str) -> None:
        """RemoveImage."""
        self.call("RemoveImage", image=message("ImageSpec", image=image))

    @contextmanager
    def pod(self) -> Iterator[Pod]:
        """A pod on the host's network."""
        unique = os.urandom(4).hex()
        metadata = message("PodSandboxMetadata", name=f"p{unique}", uid=unique, namespace="test")
        options = message("NamespaceOption", network=_NODE)
        linux = message(
            "LinuxPodSandboxConfig", security_context=message("SandboxSecurity", namespace_options=options)
        )
        logs = self._folder / f"logs-{unique}"
        logs.mkdir(parents=True)
        config = message("PodSandboxConfig", metadata=metadata, linux=linux, log_directory=str(logs))
        sandbox = self.call("RunPodSandbox", config=config).pod_sandbox_id
        try:
            yield Pod(self, sandbox, config, logs)
        finally:
            self.call("StopPodSandbox", pod_sandbox_id=sandbox)
            self.call("RemovePodSandbox", pod_sandbox_id=sandbox)


class Pod:
    """A running pod."""

    def __init__(self, kubelet: Kubelet, sandbox: str, config: Any, logs: Path) -> None:
        self._kubelet = kubelet
        self._sandbox = sandbox
        self._config = config
        self.logs = logs

    def start(self, name: str, image: str, *command: str) -> str:
        """Create and start a container; answers its id. Its output goes to ``logs/NAME``."""
        options = message("NamespaceOption", network=_NODE)
        security = message("ContainerSecurity", namespace_options=options)
        config = message(
            "ContainerConfig",
            metadata=message("ContainerMetadata", name=name),
            image=message("ImageSpec", image=image),
            command=command,
            log_path=name,
            linux=message("LinuxContainerConfig", security_context=security),
        )
        made = self._kubelet.call(
            "CreateContainer", pod_sandbox_id=self._sandbox, config=config, sandbox_config=self._config
        )
        self._kubelet.call("StartContainer", container_id=made.container_id)
        return str(made.container_id)

    def exec(self, container: str, *command: str, code: int = 0) -> str:
        """Run a command in a container; answers what it printed, when it fails on standard error."""
        done = self._kubelet.call("ExecSync", container_id=container, cmd=command, timeout=30)
        assert done.exit_code == code, done.stderr
        return str((done.stderr if code else done.stdout).decode())
