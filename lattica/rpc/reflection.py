"""The standard reflection service: which services a node serves, and their messages.

It tells of the files that describe those services and of what these import, and of nothing else that this process
has loaded. A service without a description (plain Python, bytes) is not listed: clients that load everything that is
listed would fail at it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeAlias

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

V1 = "grpc.reflection.v1.ServerReflection"
"""The same messages under the name that newer clients ask for first."""


class Reflection:
    """Describes services that are added while it runs."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._answering = _answering(self._names)

    def added(self, service: str) -> None:
        """A service is being served from now on."""
        if service == V1:  # listed under its other name; this one has no description of its own
            return
        self._names.add(service)
        self._answering = _answering(self._names)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the service, under both its names, to a server."""
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self, server)
        method = grpc.stream_stream_rpc_method_handler(
            self.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": method})
        server.add_generic_rpc_handlers((handler,))

    async def ServerReflectionInfo(  # noqa: N802 - the service's name for it
        self, request_iterator: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: Context
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answer questions, with what is known when the stream begins."""
        async for response in self._answering.ServerReflectionInfo(request_iterator, context):
            yield response


class ServedPool:
    """Of the descriptors that this process has loaded, those that some services need; finds as protobuf's pool does."""

    def __init__(self, services: Iterable[str]) -> None:
        self._pool = descriptor_pool.Default()
        self._files: set[str] = set()
        self.services = sorted(service for service in services if self._admit(service))

    def _admit(self, service: str) -> bool:
        try:
            file = self._pool.FindServiceByName(service).file
        except KeyError:
            return False
        waiting = [file]
        while waiting:
            file = waiting.pop()
            if file.name not in self._files:
                self._files.add(file.name)
                waiting += file.dependencies
        return True

    def FindFileByName(self, name: str) -> FileDescriptor:  # noqa: N802 - protobuf's name for it
        """See `google.protobuf.descriptor_pool.DescriptorPool`; so for the others."""
        return self._checked(self._pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802, D102
        return self._checked(self._pool.FindFileContainingSymbol(symbol))

    def FindMessageTypeByName(self, name: str) -> Descriptor:  # noqa: N802, D102
        message = self._pool.FindMessageTypeByName(name)
        self._checked(message.file)
        return message

    def FindExtensionByNumber(self, message: Descriptor, number: int) -> Any:  # noqa: N802, D102
        extension: Any = self._pool.FindExtensionByNumber(message, number)
        self._checked(extension.file)
        return extension

    def FindAllExtensions(self, message: Descriptor) -> list[Any]:  # noqa: N802, D102
        extensions: list[Any] = self._pool.FindAllExtensions(message)
        return [extension for extension in extensions if extension.file.name in self._files]

    def _checked(self, file: FileDescriptor) -> FileDescriptor:
        if file.name not in self._files:
            raise KeyError(file.name)
        return file


def _answering(names: Iterable[str]) -> reflection.aio.ReflectionServicer:
    pool = ServedPool(names)
    return reflection.aio.ReflectionServicer(pool.services, pool=pool)
