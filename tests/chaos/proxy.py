"""A wire between two processes that can be made slow, silent, or be cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading

CHUNK = 65_536
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on a port of the loopback interface and passes on what it hears, both ways.

    `hold` is a black hole: nothing gets through, and nobody is told. `hold(asked=False)` lets questions through and
    keeps the answers: what was done is not known to whoever asked for it. `cut` resets every connection, and what
    was held is lost. `pass_on` ends both.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._loop = asyncio.new_event_loop()
        self._gates = {True: asyncio.Event(), False: asyncio.Event()}
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delay_s = 0.0
        self.held = 0
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._do(self._listen())
        self.port = self._server.sockets[0].getsockname()[1]
        self.pass_on()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    def _do(self, what):
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)

    # faults

    def hold(self, *, asked: bool = True, answered: bool = True) -> None:
        """Keep what comes from whoever connects (`asked`), and what comes back (`answered`)."""

        async def act() -> None:
            self.held = 0
            for gate, held in ((self._gates[True], asked), (self._gates[False], answered)):
                if held:
                    gate.clear()

        self._do(act())

    def pass_on(self) -> None:
        """Let everything through again."""

        async def act() -> None:
            self._delay_s = 0.0
            for gate in self._gates.values():
                gate.set()

        self._do(act())

    def delay(self, seconds: float) -> None:
        """Let each piece wait so long on its way."""
        self._delay_s = seconds

    def cut(self) -> None:
        """Reset every connection, at both ends; what was on its way is lost."""

        async def act() -> None:
            for writer in list(self._writers):
                wire = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()
            for task in list(self._tasks):
                task.cancel()

        self._do(act())

    def close(self) -> None:
        async def act() -> None:
            self._server.close()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self.cut()
        self._do(act())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # the wire

    async def _accept(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        self._writers.add(near)
        try:
            far_reader, far = await asyncio.open_connection(*self._upstream)
        except OSError:
            near.transport.abort()
            self._writers.discard(near)
            return
        self._writers.add(far)
        for reader, writer, question in ((near_reader, far, True), (far_reader, near, False)):
            task = self._loop.create_task(self._pump(reader, writer, self._gates[question]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(CHUNK):
                if not gate.is_set():
                    self.held += len(data)
                await gate.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
