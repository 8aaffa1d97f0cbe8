"""The methods of a gRPC service, read off its descriptor: paths and message classes for server and client.

Both need no more than this, so no stubs are generated. Pure; does not import grpc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


@dataclass(frozen=True, slots=True)
class Method:
    """One method, with what grpc's ``unary_unary`` and its kin ask for."""

    name: str
    path: str
    """``/package.Service/Method``"""
    request: type[Message]
    response: type[Message]
    streams_requests: bool
    streams_responses: bool

    @property
    def serialize_request(self) -> Callable[[Any], bytes]:
        return self.request.SerializeToString

    @property
    def serialize_response(self) -> Callable[[Any], bytes]:
        return self.response.SerializeToString

    @property
    def parse_request(self) -> Callable[[bytes], Any]:
        return self.request.FromString

    @property
    def parse_response(self) -> Callable[[bytes], Any]:
        return self.response.FromString


def methods_of(file: FileDescriptor, service: str) -> Iterator[Method]:
    """All methods of ``service`` of a generated module's ``DESCRIPTOR``."""
    described = file.services_by_name[service]
    for method in described.methods:
        yield Method(
            name=method.name,
            path=f"/{described.full_name}/{method.name}",
            request=GetMessageClass(method.input_type),
            response=GetMessageClass(method.output_type),
            streams_requests=method.client_streaming,
            streams_responses=method.server_streaming,
        )


def method_of(file: FileDescriptor, service: str, name: str) -> Method:
    """One of them."""
    return next(method for method in methods_of(file, service) if method.name == name)
